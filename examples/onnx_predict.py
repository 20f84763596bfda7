"""Label an image with an exported student: python onnx_predict.py student.onnx in.jpg out.png."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, source, target = sys.argv[1:] if len(sys.argv) == 4 else sys.exit(__doc__)
session = onnxruntime.InferenceSession(model)
facts = json.loads(session.get_modelmeta().custom_metadata_map["tsic"])
mean, std = np.float32(facts["mean"]), np.float32(facts["std"])
image = ImageOps.exif_transpose(Image.open(source))
if image.mode[0] in "IF":
    sys.exit(f"{source}: more than 8 bits per channel; save it with 8")
image = image.convert("RGB")
# A fixed size is resized to; a free one is padded, with the mean colour, to sides that fit.
shown = image.resize(facts["size"][::-1], Image.Resampling.BILINEAR) if facts["size"] else image
step, least = (1, 1) if facts["size"] else (facts["multiple"], facts["minimum"])
height, width = (max(-(-side // step) * step, least) for side in (shown.height, shown.width))
pixels = np.full((height, width, 3), mean)
pixels[: shown.height, : shown.width] = np.asarray(shown) / np.float32(255)
if facts["input"] == "uint8":
    pixels = np.rint(pixels * 255).astype(np.uint8)
elif facts["input"] == "normalised":
    pixels = (pixels - mean) / std
batch = np.repeat(pixels.transpose(2, 0, 1)[None], facts["batch"] or 1, axis=0)
answer = session.run(None, {"image": batch})[0][0]
goal = image.size if facts["size"] else (width, height)
if facts["output"] == "scores":  # one map of scores per class, smaller than the image
    maps = [Image.fromarray(one).resize(goal, Image.Resampling.BILINEAR) for one in answer]
    answer = np.stack(maps).argmax(0).astype(np.uint8)
labels = Image.fromarray(answer).resize(goal, Image.Resampling.NEAREST)
labels = labels.crop((0, 0, image.width, image.height))
labels.putpalette(np.uint8(facts["palette"]).tobytes())
labels.save(target)
