"""Train the classifier that params.yaml describes on the annotated images.

reads   data/images, data/annotations.csv, the file of models/pretrained/ that train.initial_checkpoint names;
        params.yaml: train, compute, the chosen model, loss, optimizer and schedule
writes  models/classifier.safetensors; metrics/train.json, metrics/train/curves.csv (both anew at every epoch);
        untracked: models/environment.json, logs/ for TensorBoard
run     dvc repro train, or: python -m stages.train
expect  a line an epoch; docs/results.md has accuracy and time of the default recipe

Stop it with Ctrl-C, or pull the plug: the same command resumes, to the same bytes.
"""

import sys

from classifier.data.dataset import load_splits
from classifier.model import compute
from classifier.model.serialization import ModelConfig, Normalize
from classifier.runner.context import StageContext
from classifier.train import distributed, pretrained, processes, results, setup
from classifier.train.checkpoint import Checkpoint
from classifier.train.gradient import make_gradient
from classifier.train.loop import Task, fit
from classifier.train.losses import make_loss
from classifier.train.optim import Schedule, make_optimizer
from classifier.train.order import Order
from classifier.train.state import TrainState

import torch


def main(context: StageContext) -> None:
    """Train, in as many processes as the params say."""
    with processes.launch(context, context.params.train.world_size) as group:
        train(context, group)


def train(context: StageContext, group: processes.ProcessGroup) -> None:
    """Load the data, build the model, fit it, write it."""
    params = context.params
    config, runtime = params.train, params.runtime
    backend = compute.prepare(params.compute, runtime.threads, config)
    device = distributed.select_device(backend.device, config.world_size)
    deciding = compute.deciding(compute.environment(backend))
    results.log_environment_changes(context, deciding)

    train_images, val_images = load_splits(
        context.dep("data/annotations.csv"),
        context.dep("data/images"),
        "train",
        optional="val",
        memory_mb=runtime.image_memory_mb,
        threads=runtime.prefetch_threads,
    )
    setup.check_data(config, train_images, val_images)
    loss = make_loss(config.loss, params.losses[config.loss].model_dump(), len(train_images.class_names))
    train_images.target_transform = val_images.target_transform = loss.target_transform

    model_config = ModelConfig(
        config.model,
        params.models[config.model].model_dump(),
        train_images.class_names,
        *train_images.shape,
        *setup.mean_and_std(config, train_images),
        trained_with=context.declared_params(),
    )
    model = setup.build_model(config, model_config, train_images)
    model = distributed.convert_sync_batchnorm(model, device, config.world_size)
    pretrained.load_initial_checkpoint(model, context.dep(f"models/pretrained/{config.initial_checkpoint}"))
    frozen = pretrained.freeze(model, config.freeze)
    setup.log_summary(config, model, model_config, len(train_images), backend)
    model = model.to(device).to(memory_format=torch.channels_last)
    for images in (train_images, val_images):
        images.to(device)

    fingerprint = context.fingerprint(environment=deciding)
    processes.init_process_group(group, device, fingerprint)
    order = Order(config, train_images, device)
    schedule_options = params.schedules[config.schedule].model_dump()
    task = Task(
        config=config,
        loss=loss,
        schedule=Schedule(config.schedule, schedule_options, config.warmup_fraction, order.first_steps),
        gradient=make_gradient(model, loss.training, config, backend, frozen),
        normalize=Normalize(model_config).to(device),
        train_images=train_images,
        val_images=val_images,
        backend=backend,
    )
    options = params.optimizers[config.optimizer].model_dump()
    optimizer = make_optimizer(config.optimizer, options, model, in_thread=backend.in_parts)
    state = TrainState.create(model, optimizer, order, config)
    checkpoint = Checkpoint(context.state, runtime.checkpoint_seconds)
    name = f"{config.model}-{config.optimizer}-{config.seed}-{fingerprint}"
    with results.epoch_callback(context, model, model_config, name) as on_epoch:
        kept = fit(
            state,
            task,
            context=context,
            checkpoint=checkpoint,
            stop_after_epoch=runtime.stop_after_epoch,
            on_epoch=on_epoch,
        )
    if context.is_rank_zero:
        results.write(context, kept, model_config, task, state.history)
        context.on_success(checkpoint.remove)


if __name__ == "__main__":
    sys.exit(processes.run_stage("train", main, __doc__))
