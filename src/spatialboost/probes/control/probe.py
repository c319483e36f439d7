"""Control probe: a policy on frozen features imitates an expert, and is run in the simulator to count its success."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.control.demonstrations import Demonstrations, Frame, record_demonstrations
from spatialboost.probes.control.policy import PolicyTraining, train_policy
from spatialboost.probes.control.simulator import TASKS, Simulator, open_task
from spatialboost.probes.draws import Draw
from spatialboost.probes.inputs import SplitOptions
from spatialboost.probes.measures import Metric, ProbeRow
from spatialboost.probes.protocol import Measured, Probe, ReadSplit

# Shape legend: n frames, E episodes, D width of a feature, A numbers of an action, P numbers of the robot's state.

BLIND = "mean action"
FIRST_EPISODE = 10_000  # seed of the first episode that is measured; demonstrations have the seeds from 0
AT_ONCE = 8  # simulators that run side by side
Token = Literal["auto", "class", "mean", "both"]
Act = Callable[[list[np.ndarray], np.ndarray, Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class ControlTasks(SplitOptions):
    """Demonstrations of the experts of some tasks: some to imitate, and some to measure the imitation on."""

    noun = "frames"

    tasks: Annotated[list[str], f"Task, one of {', '.join(TASKS)}; repeat it for several."] = field(
        default_factory=lambda: ["fetch-reach"]
    )
    demos: Annotated[int, "Demonstrations of each task."] = 25
    held_out: Annotated[int, "Further demonstrations of each task, for the error of the action."] = 5
    frame_size: Annotated[int, "Side of the simulator's frames in pixels."] = 128

    def open(self) -> tuple[Demonstrations, Demonstrations]:
        """The demonstrations; recorded now if they are not in the cache."""
        return record_demonstrations(self.tasks, demos=self.demos, held_out=self.held_out, size=self.frame_size)

    @staticmethod
    def as_source(given: Any) -> Demonstrations:
        """The given demonstrations.

        Raises:
            SpatialBoostError: something else, such as a text.
        """
        if not isinstance(given, Demonstrations):
            raise SpatialBoostError(f"the demonstrations are {given!r:.80}; expected those of `record_demonstrations`")
        return given


@dataclass(frozen=True)
class ControlProbe(Probe):
    """Behaviour cloning: a small policy on frozen features imitates an expert in a simulator.

    The shape is that of CortexBench (arXiv 2303.18240): for each task and seed, a perceptron is trained on the features
    of the demonstrations' frames; it is run in the simulator several times during the training; the score of a run is
    the best of these success rates. The scores of the tasks are averaged. A task counts as solved if the simulator says
    so after any step of an episode. All encoders get the same demonstrations and the same episodes.

    Raises:
        SpatialBoostError: an option that is not known or out of its range.
    """

    name = "control"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "success": Metric("success, best evaluation", higher_is_better=True),
        "last": Metric("success, last evaluation", higher_is_better=True),
        "action_error": Metric("mean squared error of the action"),
        **{f"success_{task}": Metric(f"success, {task}", higher_is_better=True) for task in TASKS},
    }
    splits = ControlTasks
    baseline = BLIND
    patches = False

    token: Annotated[Token, "Class token, mean patch token, both joined, or auto: class if there is one."] = "auto"
    history: Annotated[int, "Last frames whose features are joined, so that motion can be seen."] = 3
    proprioception: Annotated[bool, "Also give the policy the robot's own state."] = False
    episodes: Annotated[int, "Episodes of each task in an evaluation."] = 25
    evaluations: Annotated[int, "Evaluations during the training; the best one counts."] = 5
    epochs: Annotated[int, "Passes over the demonstrations."] = 100
    batch: Annotated[int, "Frames in a training step."] = 256
    rate: Annotated[float, "Learning rate."] = 0.001

    def __post_init__(self) -> None:
        if self.token not in get_args(Token):
            raise SpatialBoostError(f"token is {self.token!r}; expected one of {get_args(Token)}")
        if self.history < 1 or self.episodes < 1:
            raise SpatialBoostError(f"history is {self.history} and episodes {self.episodes}; expected at least 1 each")
        _ = self.training

    @property
    def training(self) -> PolicyTraining:
        """How the policies are trained."""
        return PolicyTraining(self.epochs, self.evaluations, self.batch, self.rate)

    def keep(self, item: Frame, grid: tuple[int, int], image_size: tuple[int, int]) -> Frame:
        """Everything but the picture."""
        return Frame(np.empty(0), item.action, item.proprioception, item.task, item.demo, item.step)

    def measure(
        self, name: str, train: ReadSplit, test: ReadSplit, draws: Sequence[Draw], shown: Sequence[int]
    ) -> Measured:
        """Train a policy for each draw and task, and run it in the simulator."""
        read = train.features_of
        if read is None:
            raise SpatialBoostError(
                "the control probe runs the encoder in the simulator: give the encoder, not features"
            )
        size, tasks = train.items.source.size, train.items.source.tasks
        inputs = [self._inputs(split) for split in (train, test)]
        scores: dict[int, list[dict[str, Any]]] = {number: [] for number in range(len(draws))}
        for task in tasks:
            simulators = [open_task(task, size) for _ in range(min(AT_ONCE, self.episodes))]
            fit_on, test_on = (
                np.array([i for i, frame in enumerate(split.kept) if frame.task == task]) for split in (train, test)
            )
            held_out = inputs[1][test_on], _actions(test, test_on)
            for number, draw in enumerate(draws):
                chosen = np.intersect1d(draw.items, fit_on)
                runs, errors = [], []
                for policy in train_policy(
                    inputs[0][chosen], _actions(train, chosen), self.training, seed=draw.seed or 0
                ):
                    act = _Actor(
                        policy, lambda images: read(images).vectors(self.token), self.history, self.proprioception
                    )
                    runs.append(run_episodes(simulators, act, act.forget, self.episodes))
                    with torch.no_grad():
                        errors.append(nn.functional.mse_loss(policy(held_out[0]), held_out[1]).item())
                scores[number].append(_score(task, runs, errors))
            for simulator in simulators:
                simulator.close()
        rows = [ProbeRow(name, draw.seed, *_together(scores[number])) for number, draw in enumerate(draws)]
        return Measured(rows)

    def measure_baseline(self, train: ReadSplit, test: ReadSplit) -> ProbeRow:
        """The score of the mean action of the demonstrations in each step."""
        scores = []
        for task in train.items.source.tasks:
            of_task = [np.array([i for i, f in enumerate(split.kept) if f.task == task]) for split in (train, test)]
            mean_A = _actions(train, of_task[0]).mean(0)
            simulators = [open_task(task, train.items.source.size)]
            solved_E = run_episodes(simulators, _constant(mean_A), None, self.episodes)
            error = (_actions(test, of_task[1]) - mean_A).square().mean().item()
            scores.append(_score(task, [solved_E], [error]))
            simulators[0].close()
        metrics, _, per_episode = _together(scores)
        return ProbeRow(BLIND, None, metrics, {}, per_episode)

    def about(self, train: ReadSplit) -> dict[str, Any]:
        """The settings of the features, and which token represents a frame."""
        return {**train.features.about(), "token": train.features.chosen_token(self.token)}

    def settings(self, train: ReadSplit, test: ReadSplit) -> dict[str, Any]:
        """The options as text for the result."""
        source = train.items.source
        return {
            "tasks": source.tasks,
            "frame size": source.size,
            "policy": "batch normalisation and a perceptron, widths 256, 256, 256; squared error, Adam",
            "input": f"features of the last {self.history} frames"
            + (" and proprioception" if self.proprioception else ", no proprioception"),
            "epochs": self.epochs,
            "batch": self.batch,
            "rate": self.rate,
            "evaluations": self.evaluations,
            "episodes": self.episodes,
            "score": "mean over tasks of the best evaluation",
            "demonstrations": source.name,
        }

    def _inputs(self, split: ReadSplit) -> Tensor:
        """The input of the policy for each frame: features of it and of the frames before it in its demonstration."""
        vectors_nD = split.features.vectors(self.token)
        steps = torch.tensor([frame.step for frame in split.kept])
        number = torch.arange(len(steps))
        past = [vectors_nD[number - torch.clamp(steps, max=back)] for back in range(self.history)]
        if self.proprioception:
            past.append(torch.from_numpy(np.stack([frame.proprioception for frame in split.kept])))
        return torch.cat(past, -1)


class _Actor:
    """A policy in the simulator: it keeps the features of the last frames of each episode that runs."""

    def __init__(
        self, policy: nn.Module, vectors: Callable[[list[np.ndarray]], Tensor], history: int, proprioception: bool
    ) -> None:
        self._policy, self._vectors, self._history, self._own = policy, vectors, history, proprioception
        self._past: dict[int, list[Tensor]] = {}

    def forget(self, slot: int) -> None:
        """A new episode begins in the simulator of this number."""
        self._past.pop(slot, None)

    def __call__(self, images: list[np.ndarray], states_nP: np.ndarray, slots: Sequence[int]) -> np.ndarray:
        inputs = []
        for vector, slot in zip(self._vectors(images), slots, strict=True):
            past = [vector, *self._past.get(slot, [vector] * (self._history - 1))][: self._history]
            self._past[slot] = past
            inputs.append(torch.cat(past))
        x_nD = torch.stack(inputs)
        if self._own:
            x_nD = torch.cat([x_nD, torch.from_numpy(states_nP.astype(np.float32))], -1)
        with torch.no_grad():
            return self._policy(x_nD).numpy()


def run_episodes(
    simulators: Sequence[Simulator], act: Act, begin: Callable[[int], None] | None, episodes: int
) -> list[float]:
    """Whether each episode was solved (1 or 0). An episode ends when it is solved, or at the horizon.

    Args:
        simulators: simulators of one task, which run side by side.
        act: from frames, states and the numbers of their simulators to actions.
        begin: called with the number of a simulator before an episode begins in it.
        episodes: number of episodes; their seeds begin at `FIRST_EPISODE`.
    """
    solved = [0.0] * episodes
    waiting = iter(range(episodes))
    running: dict[int, tuple[int, int]] = {}  # simulator -> episode, steps so far

    def start(slot: int) -> None:
        running.pop(slot, None)
        if (episode := next(waiting, None)) is not None:
            simulators[slot].reset(FIRST_EPISODE + episode)
            if begin is not None:
                begin(slot)
            running[slot] = episode, 0

    for slot in range(len(simulators)):
        start(slot)
    while running:
        slots = list(running)
        states = np.stack([simulators[slot].proprioception() for slot in slots])
        actions = act([simulators[slot].frame() for slot in slots], states, slots)
        for slot, action in zip(slots, actions, strict=True):
            episode, steps = running[slot]
            done = simulators[slot].step(action)
            solved[episode] = max(solved[episode], float(done))
            running[slot] = episode, steps + 1
            if done or steps + 1 >= simulators[slot].horizon:
                start(slot)
    return solved


def _constant(action_A: Tensor) -> Act:
    """A policy that always does the same."""
    return lambda images, states_nP, slots: action_A.expand(len(slots), -1).numpy()


def _actions(split: ReadSplit, frames: np.ndarray) -> Tensor:
    """The expert's actions ``(n, A)``."""
    return torch.from_numpy(np.stack([split.kept[index].action for index in frames]))


def _score(task: str, runs: Sequence[Sequence[float]], errors: Sequence[float]) -> dict[str, Any]:
    rates = [float(np.mean(run)) for run in runs]
    best = int(np.argmax(rates))
    return {
        "task": task,
        "best": rates[best],
        "last": rates[-1],
        "error": errors[-1],
        "episodes": list(runs[best]),
        "at": best + 1,
    }


def _together(scores: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float], list[float]]:
    """Metrics, the evaluation that was best in each task, and the result of each episode, over all tasks."""
    metrics = {
        "success": float(np.mean([score["best"] for score in scores])),
        "last": float(np.mean([score["last"] for score in scores])),
        "action_error": float(np.mean([score["error"] for score in scores])),
    }
    if len(scores) > 1:
        metrics |= {f"success_{score['task']}": score["best"] for score in scores}
    chosen = {f"best evaluation, {score['task']}": float(score["at"]) for score in scores}
    return metrics, chosen, [solved for score in scores for solved in score["episodes"]]
