"""What Lightning and its parts say that is not for a user of these commands: adverts, what our own first lines say, and
deprecations of one library's use of another. Errors and warnings about a run stay."""

import logging
import warnings

LINES = (  # beginnings, of log records
    "`weights_only` was not set",
    "💡 Tip",
    "GPU available",
    "TPU available",
    "HPU available",
    "Seed set to",
    "Using ",  # precision and plug-ins; the first lines say the precision
    "`Trainer.fit` stopped",
    "Restoring states from the checkpoint path",
    "Restored all states from the checkpoint",
    "Loaded model weights from the checkpoint",
)
WARNINGS = (  # regular expressions, from the beginning
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",  # a resumed run's
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    r".*does not have many workers which may be a bottleneck",
    r".*is smaller than the logging interval",
)


def quieten() -> None:
    """From here on, in this process."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_for_a_user)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _is_for_a_user(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(LINES)
