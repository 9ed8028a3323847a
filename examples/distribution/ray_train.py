"""Trains the network of multi_worker.py on two workers of a Ray cluster."""

import argparse
import json
import tempfile
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train_on_worker(config):
    import tensorflow as tf
    from multi_worker import Training
    from ray import train

    # Ray Train has set TF_CONFIG.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    training = Training(strategy, config["batch_size"])
    losses = training.run(config["epochs"])
    # Every worker reports. Ray keeps the metrics of the report that has a checkpoint.
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if train.get_context().get_world_rank() == 0:
            training.model.save_weights(f"{folder}/model.weights.h5")
            checkpoint = train.Checkpoint.from_directory(folder)
        metrics = {"losses": losses, "replicas": strategy.num_replicas_in_sync}
        train.report(metrics, checkpoint=checkpoint)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        help="images per step of all workers together (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("ray-train"),
        help="folder for the weights (default: %(default)s)",
    )
    args = parser.parse_args()
    # On this machine only. On a cluster, use ray.init().
    ray.init(_node_ip_address="127.0.0.1", include_dashboard=False)
    trainer = TensorflowTrainer(
        train_on_worker,
        train_loop_config={"batch_size": args.batch_size, "epochs": args.epochs},
        scaling_config=ScalingConfig(num_workers=args.workers),
        run_config=RunConfig(storage_path=str(args.out.resolve())),
    )
    print(json.dumps(trainer.fit().metrics))


if __name__ == "__main__":
    main()
