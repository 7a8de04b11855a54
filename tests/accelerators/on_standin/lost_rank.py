"""One rank of two; the second dies in its second step. NODE_RANK says which this is."""

import os
import signal

from toy import Toy, loader, trainer

from accelerators import MLUDDPStrategy


class Dies(Toy):
    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


trainer(accelerator="mlu", devices=1, num_nodes=2, strategy=MLUDDPStrategy()).fit(Dies(), loader())
