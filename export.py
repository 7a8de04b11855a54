"""Takes a trained model out of this project: to the published recipe's `.pt` format.

python export.py --ckpt_path runs/0001/checkpoints/best.ckpt --format published --output ssd300.pt
"""

from command_line.export import main
from command_line.shared import run

if __name__ == "__main__":
    run(main)
