"""How good a detector is: COCO's numbers, what went wrong, the report, drawing; whether another one is better."""
