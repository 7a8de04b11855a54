"""Detects objects in pictures and videos: draws them, and writes COCO results JSON and CSV.

python predict.py --ckpt_path runs/0001/checkpoints/best.ckpt photo.jpg --output predictions
python predict.py --ckpt_path epoch_64.pt photos/ 'more/**/*.png' --output predictions --classes person,car
python predict.py --ckpt_path runs/0001/checkpoints/best.ckpt clip.mp4 --output predictions --score_threshold 0.5
"""

from command_line.start import start

if __name__ == "__main__":
    start("command_line.predict")
