"""Data sets of other tools -> COCO: YOLO, Pascal VOC, CVAT for images, Open Images, and a plain table of boxes.

Their files are read by hotcoco's converters, which refuse what they cannot read with file and line; a file each here is
what they do not do: find the splits and the pictures.
"""
