"""Evaluates a checkpoint on the validation split: COCO's twelve numbers and a table per class.

python evaluate.py --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/sample
python evaluate.py --ckpt_path epoch_64.pt --data_root data/coco --pictures pictures --json numbers.json
python evaluate.py --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/coco --report report --limit 500
python evaluate.py --detections results.json --annotations val.json --images val --report report
"""

from command_line.start import start

if __name__ == "__main__":
    start("command_line.evaluate")
