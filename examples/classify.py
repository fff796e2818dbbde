"""Classify one image with the ONNX file alone: python classify.py classifier.onnx picture.png

Needs: pip install onnxruntime pillow
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
_, channels, height, width = session.get_inputs()[0].shape
picture = Image.open(sys.argv[2]).convert("L" if channels == 1 else "RGB").resize((width, height))
images = np.asarray(picture).reshape(1, height, width, channels).transpose(0, 3, 1, 2)
(probabilities,) = session.run(["probabilities"], {"images": images})
best = probabilities[0].argmax()
print(f"{names[best]} {probabilities[0, best]:.4f}")
