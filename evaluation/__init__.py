"""How good a detector is: COCO's numbers, what went wrong, the report, drawing."""
