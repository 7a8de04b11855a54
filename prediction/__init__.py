"""A trained detector on pictures and videos: `Detector` and what it returns, the files in and out.

from prediction import Detector

detector = Detector("runs/0001/checkpoints/best.ckpt")
for found in detector(["street.jpg", Image.open("cat.png"), array]):
    print(found.class_names, found.scores, found.boxes)
"""

from prediction.detector import Detections, Detector

__all__ = ["Detections", "Detector"]
