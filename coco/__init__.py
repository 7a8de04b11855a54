"""COCO-format data: annotations, pictures, the mAP metric and a generated sample."""
