"""Trains SSD300 (Lightning's fit).

python train.py --config configs/demo.yaml --data_root data/sample
python train.py --config configs/ssd300_resnet50.yaml --data_root data/coco --accelerator mlu --devices 8
python train.py --config configs/ssd300_resnet50.yaml --data_root data/coco --run_dir runs/0001 --ckpt_path last
"""

from command_line.start import start

if __name__ == "__main__":
    start("command_line.fit")
