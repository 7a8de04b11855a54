"""Takes a trained model out of this project: to ONNX, proven beside PyTorch, or to the published recipe's `.pt` format.

python export.py --ckpt_path runs/0001/checkpoints/best.ckpt --format onnx --output ssd300.onnx
python export.py --ckpt_path runs/0001/checkpoints/best.ckpt --format published --output ssd300.pt
"""

from command_line.start import start

if __name__ == "__main__":
    start("command_line.export")
