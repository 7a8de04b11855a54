"""What the project's messages say when it refuses an input, and which of them only hide that memory ran out."""

import re

# Kinds of refusals, in the order in which they are looked for.
KINDS = {
    "no such file": "no such (annotation|image) file",
    "no regular file, or not to be opened": "no regular file|is a directory|cannot be opened",
    "JSON: empty file": r"is empty \(",
    "JSON: syntax": "broken JSON",
    "JSON: nested too deeply": "nested too deeply for",
    "JSON: no object or list": "is not an object but|is not a list but|an object with the lists",
    "JSON: no images or categories": '"(images|categories)" is empty',
    "entry: no object": "not an object",
    "entry: key missing": 'has no "',
    "entry: not Unicode": "not valid Unicode",
    "entry: bbox": "bbox is ",
    "entry: area or iscrowd": "(area|iscrowd) is ",
    "entry: no integer, or out of range": "expected an integer",
    "entry: integer of thousands of digits": "has an integer of more than",
    "entry: no text": "expected a text",
    "file name: empty, absolute or leaves the directory": "leaves the image",
    "ids repeated": "is given to",
    "id unknown": "is not in ",
    "cache: not usable": "Delete this cache",
    "picture: another size than annotated": r"\d+x\d+ pixels( as stored)?, but",
    "picture: no known format": "not an image file",
    "picture: too large": "decompression bomb|too large|exceeds limit|Too much memory|Decompressed data|pixels a byte",
    "picture: cut off": "truncated|Truncated",
    "picture: in memory, of more than 8 bits": "a PIL image of mode",
    "picture: cannot be decoded": "cannot be decoded|cannot be read|are damaged",
    "checkpoint: another network or settings": "does not fit this project's SSDModule",
    "checkpoint: another network (published)": "its backbone is none of|no SSD300 confidence head|looks like",
    "checkpoint: lists or tables of another kind": "should map|names|no `model` state dict|expected a list of",
    "checkpoint: neither ours nor published": "neither a Lightning checkpoint|expected a checkpoint dict",
    "checkpoint: weights of another backbone": "weights do not fit",
    "checkpoint: no state dict of weights": "(holds|is) no state dict",
    "checkpoint: no run to go on with": "no run to resume|no training to go on|cannot be resumed|nothing to go on from",
    "checkpoint: zip file not as torch writes it": r"is compressed|encrypted or|there twice|overlaps|no parts",
    "checkpoint: changed since it was written": "was changed since",
    "checkpoint: larger inside than outside": "more than [0-9]+ (MiB|instructions)|named again and again",
    "checkpoint: a tensor beyond its storage": "a tensor of|storages? of|a tensor with a negative|in two lengths",
    "checkpoint: more than plain data": "holds more than tensors and plain data",
    "checkpoint: damaged or cut off": "not a readable checkpoint",
    "prediction: no such input or class": "--classes|no picture in this folder|no such file or folder",
}


def kind_of(message: str) -> str:
    """Which check a message of ours is from."""
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, message))
    return next(found, "other: " + re.sub(r"\d+", "#", message)[-80:])


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error came of another that says that there was no more memory."""
    while error is not None:
        if isinstance(error, MemoryError) or re.search("can't allocate memory|not enough memory", str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
