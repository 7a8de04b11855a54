"""Where names went that README and docs once named at the top level; docs/migration.md lists them too."""

import re

MOVED = {
    "callbacks.ClassPrecision": "training.pictures.ClassPrecision",
    "callbacks.EpochTime": "training.throughput.EpochTime",
    "callbacks.GradientNorm": "training.losses.GradientNorm",
    "callbacks.LossMonitor": "training.losses.LossMonitor",
    "callbacks.RandomStates": "training.random_states.RandomStates",
    "callbacks.SkipNonFiniteSteps": "training.losses.SkipNonFiniteSteps",
    "callbacks.Throughput": "training.throughput.Throughput",
    "checkpoint_io.DurableCheckpointIO": "checkpoints.durable_io.DurableCheckpointIO",
    "checkpoints.CheckpointError": "checkpoints.files.CheckpointError",
    "coco.metric.CocoMeanAveragePrecision": "evaluation.metric.CocoMeanAveragePrecision",
    "dllogger.DLLogger": "training.dllogger.DLLogger",
    "evaluate.evaluate": "command_line.evaluate.evaluate",
    "export.load_reference_checkpoint": "ssd_module.load_module",
    "export.save_reference_checkpoint": "training.published_saving.save_reference_checkpoint",
    "last_checkpoint.LastCheckpoint": "training.last_checkpoint.LastCheckpoint",
    "loader_watch.LoaderWatch": "training.loader_watch.LoaderWatch",
    "pictures.DetectionPictures": "training.pictures.DetectionPictures",
    "pictures.TensorBoardPictures": "training.pictures.TensorBoardPictures",
    "pictures.draw_detections": "evaluation.drawing.draw_detections",
    "schedule.RecipeSchedule": "training.schedule.RecipeSchedule",
    "ssd_module.parameter_groups": "ssd.parameters.parameter_groups",
    "train.train": "command_line.fit.train",
    "video.VideoReader": "prediction.video.VideoReader",
}


def moved(message: str) -> str:
    """Words on the old names in an error's message; none if there are none."""
    named = {name for name in re.findall(r"[A-Za-z_][\w.]*\.\w+", message) if name in MOVED}
    return "".join(f" {name} is now {MOVED[name]}." for name in sorted(named))
