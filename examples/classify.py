"""Classify one image with the ONNX file alone: python classify.py classifier.onnx picture.png

Needs: pip install onnxruntime pillow
"""

import json
import os
import sys

import numpy as np
from PIL import Image, ImageOps

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # otherwise onnxruntime may send statistics
import onnxruntime


def rounded(numerator, denominator):
    """Their quotient, rounded half up in whole numbers; at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
names, how = json.loads(metadata["class_names"]), json.loads(metadata["preprocessing"])
_, channels, height, width = session.get_inputs()[0].shape

# What the training did with its images: upright, on a background where transparent, to the size of the model.
opened = Image.open(sys.argv[2])
picture = ImageOps.exif_transpose(opened)
if picture.mode.startswith("I;16") or (picture.mode == "I" and opened.format == "PPM"):
    picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
elif picture.mode[0] in "IF":
    sys.exit(f"{sys.argv[2]}: has 32 bits a pixel; save it with 8 or 16")
if picture.has_transparency_data:
    behind = Image.new("RGBA", picture.size, how["background"])
    picture = Image.alpha_composite(behind, picture.convert("RGBA"))
picture = picture.convert("L" if channels == 1 else "RGB")
is_wide = picture.width * height >= picture.height * width
if how["fit"] == "pad":
    inner = (width, rounded(picture.height * width, picture.width))
    if not is_wide:
        inner = (rounded(picture.width * height, picture.height), height)
    small = picture.resize(inner, Image.Resampling.LANCZOS)
    picture = Image.new(picture.mode, (width, height), how["background"])
    picture.paste(small, ((width - inner[0]) // 2, (height - inner[1]) // 2))
elif how["fit"] == "crop":
    kept = (rounded(picture.height * width, height), picture.height)
    if not is_wide:
        kept = (picture.width, rounded(picture.width * height, width))
    left, top = ((side - part) // 2 for side, part in zip(picture.size, kept, strict=True))
    picture = picture.crop((left, top, left + kept[0], top + kept[1]))
picture = picture.resize((width, height), Image.Resampling.LANCZOS)

images = np.asarray(picture).reshape(1, height, width, channels).transpose(0, 3, 1, 2)
(probabilities,) = session.run(["probabilities"], {"images": images})
best = probabilities[0].argmax()
print(f"{names[best]} {probabilities[0, best]:.4f}")
