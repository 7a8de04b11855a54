"""The published recipe's command line, for those who know it: each flag in terms of ours.

python main.py --backbone resnet50 --warmup 300 --bs 32 --data data/coco --save models
python main.py --backbone resnet50 --checkpoint models/epoch_3.pt --data data/coco
python main.py --backbone resnet50 --mode evaluation --checkpoint models/epoch_64.pt --data data/coco
torchrun --nproc_per_node=8 main.py --backbone resnet50 --warmup 300 --bs 64 --amp --data data/coco

docs/migration.md has the table. New work starts better with train.py and evaluate.py.
"""

from command_line.start import start

if __name__ == "__main__":
    start("command_line.published")
