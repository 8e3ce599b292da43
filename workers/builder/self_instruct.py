"""The builder `self-instruct`: tasks like those that a data team wrote, and answers to them (Wang et al. 2022, arXiv 2212.10560).

In three steps, as published: the teacher goes on with a list of eight tasks, six of people's and two of its own once there
are such (section 2.2, step 1); of each new task it says whether its answers are fixed labels (step 2), and gives examples,
the input first, or for a classification the label first, so that not all have the same one (step 3). The filters are the
paper's (step 4): what is too short or too long, needs more than text, asks for a program, begins with a sign, or has a
ROUGE-L above 0.7 with any seed or any task that is kept. A request shows tasks of one language. In Chinese characters count
as words, and no letter is foreign. The stop words of the paper are of models that go on with a text: a teacher that chats
ends by itself.

What is made does not depend on which answer comes first: answers are read in the order in which they were asked for, and a
request draws from the tasks that were kept `AHEAD` times `in_flight` requests before it. So whoever takes a build up asks the
same again, and has the answers that were paid.
"""

import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from itertools import zip_longest
from typing import Any

from msgspec import Struct

from streams.facts.material import Source
from streams.seed_tasks import Instance, SeedTask
from streams.syllogisms import is_chinese
from workers.builder.material import Dropped, Made, Material, Proposed, Step
from workers.builder.novelty import Kept, tokens_of
from workers.builder.teacher import SPENT, SURE, Answer, Desk, Sampling

SHOWN, GENERATED_SHOWN = 8, 2
FEWEST_WORDS, MOST_WORDS = 4, 150
MOST_INSTANCES = 5
EXAMPLES = 4  # seeds that show how a step is done, of each kind
AHEAD = 2  # requests for tasks that are under way, times those in flight
FILLED_AHEAD = 4  # new tasks that wait for their examples, times those in flight
IN_VAIN = 50  # answers without a new task, one after the other: there is no more to be had

NO_TASKS = "no tasks could be read from the teacher's answer"
LENGTH = "its task is too short or too long"
NOT_TEXT = "its task needs more than text"
PROGRAM = "its task asks for a program"
BEGINNING = "its task begins with no letter of its language"
NOT_NEW = "its task is too near another (ROUGE-L above 0.7)"
NO_LABEL = "the teacher did not say whether its answers are fixed labels"
NO_INSTANCES = "no examples could be read from the teacher's answer"
EMPTY = "its answer is empty, broken off or its input again"
CONTRADICTS = "its task has two answers to one input"

DRAWN = Sampling(temperature=0.7, top_p=0.5, presence_penalty=2.0)
_MORE = {
    False: (
        "Below is a list of tasks that people set an assistant of one field. Go on with eight further tasks of that field, each"
        " unlike all others in what it asks and in its wording. Each must be solvable by reading and writing alone and stand in one"
        " line. Write nothing but the list.\n\n{shown}\n{next}."
    ),
    True: (
        "下面是人们向某一领域的助手提出的任务清单。请接着写出该领域的八个新任务，每个任务的内容和措辞都要与其他任务不同，"
        "只靠阅读和书写就能完成，并且各占一行。只写清单，不写别的。\n\n{shown}\n{next}."
    ),
}
_LABELLED = {
    False: "Say of each task whether every answer to it is one of a few fixed labels. Yes or No.\n\n{shown}",
    True: "请判断每个任务的答案是否都出自少数几个固定标签。只答“是”或“否”。\n\n{shown}",
}
_INPUT_FIRST = {
    False: (
        "Give examples of each task, three at most, with right answers. Say what the task is done on after Input, and leave Input"
        " out where the task needs nothing but itself.\n\n{shown}"
    ),
    True: (
        "请为每个任务举例，最多三个，答案必须正确。任务的处理对象写在“输入”之后；任务本身已经完整的，不写“输入”。\n\n{shown}"
    ),
}
_LABEL_FIRST = {
    False: "For each task name its labels, one after the other, and to each an input that has this label.\n\n{shown}",
    True: "请为每个任务依次写出它的各个标签，并为每个标签写一个属于该标签的输入。\n\n{shown}",
}
_WORDS = {
    False: {"task": "Task", "labelled": "Fixed labels", "example": "Example", "input": "Input", "output": "Output"}
    | {"label": "Label", "yes": "Yes", "no": "No"},
    True: {"task": "任务", "labelled": "固定标签", "example": "示例", "input": "输入", "output": "输出"}
    | {"label": "标签", "yes": "是", "no": "否"},
}
_LISTED = re.compile(r"^\s*\**\d+\s*[.、)）．]\s*(\S.*?)\s*$", re.M)
_NOT_TEXT = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b"
    r"|图片|图像|图表|照片|画出|绘制|附件|地图|视频|音频|音乐|流程图|示意图",
    re.I,
)
_PROGRAM = re.compile(r"write a program\b|(?:请)?(?:编写|写)(?:一个|一段)?(?:程序|代码)", re.I)
_YES = re.compile(r"^\W*(?:yes\b|是)", re.I)
_NO = re.compile(r"^\W*(?:no\b|否|不是)", re.I)
_PART = re.compile(
    r"^[ \t]*\**[ \t]*(Task|任务|Example|示例|Input|输入|Output|输出|Label|标签)[ \t]*\d*[ \t]*\**[ \t]*(?:[:：]|$)\**",
    re.M | re.I,
)
_NAMES = {said.casefold(): name for words in _WORDS.values() for name, said in words.items()}
_NO_INPUT = re.compile(r"^\W*(?:none|n/a|no input|not needed|无|没有|不需要)?\W*$", re.I)


class Task(Struct, frozen=True):
    """One that is kept. `sources`: the seeds that were shown when it was asked for."""

    instruction: str
    sources: tuple[Source, ...]

    def __repr__(self) -> str:
        return "Task(…)"


class _Request(Struct, frozen=True):
    sources: tuple[Source, ...]
    answer: Future[Answer]


class _Filled(Struct, frozen=True):
    """What the teacher said of a task: whether its answers are labels (None: that cannot be read), and examples."""

    labelled: bool | None
    answer: Answer


def build(material: Material, desk: Desk) -> Iterator[Made]:
    seeds = material.tasks()
    if not seeds:
        return
    tasks = _Tasks(seeds, material.instructions_proposed("task"), material.pin, AHEAD * desk.in_flight)
    requests, filled, done = deque[_Request](), deque[tuple[Task, Future[_Filled]]](), 0
    while True:
        while tasks.more and len(requests) < tasks.ahead and len(filled) < FILLED_AHEAD * desk.in_flight:
            sources, prompt = tasks.request()
            requests.append(_Request(sources, desk.start(partial(desk.ask, prompt, DRAWN))))
        heads: list[Future[Any]] = []
        heads += [requests[0].answer] if requests else []
        heads += [filled[0][1]] if filled else []
        if not heads:
            return
        wait(heads, return_when=FIRST_COMPLETED)
        if filled and filled[0][1].done():
            task, found = filled.popleft()
            yield from made_of(task, found.result())
            done += 1
            yield Step(done, done + len(filled))
        if requests and requests[0].answer.done():
            request = requests.popleft()
            kept, dropped = tasks.read(request.answer.result())
            yield from dropped
            for instruction in kept:
                task = Task(instruction, request.sources)
                filled.append((task, desk.start(partial(_fill, task, seeds, desk))))


class _Tasks:
    """The seeds, the tasks that are kept, and what is asked next. `more`: whether it is worth while."""

    def __init__(self, seeds: Sequence[tuple[str, SeedTask]], before: Sequence[str], draw: int, ahead: int) -> None:
        self.more = True
        self.ahead = ahead
        self._draw = draw
        self._seeds = seeds
        self._kept = Kept()
        for instruction in (*(seed.instruction for _, seed in seeds), *before):
            self._kept.add(instruction)
        self._found: list[str] = []
        self._found_after: list[int] = []  # each answer
        self._asked = 0
        self._in_vain = 0

    def request(self) -> tuple[tuple[Source, ...], str]:
        """The seeds that are shown, and the prompt."""
        number, self._asked = self._asked, self._asked + 1
        random_ = random.Random(f"{self._draw} {number}")
        chinese = is_chinese(random_.choice(self._seeds)[1].instruction)
        known = self._found_after[number - self.ahead] if number >= self.ahead else 0
        own = [said for said in self._found[:known] if is_chinese(said) == chinese]
        people = [seed for seed in self._seeds if is_chinese(seed[1].instruction) == chinese]
        generated = random_.sample(own, min(GENERATED_SHOWN, len(own)))
        written = random_.sample(people, min(SHOWN - len(generated), len(people)))
        shown = [*(seed.instruction for _, seed in written), *generated]
        random_.shuffle(shown)
        lines = [f"{place}. {' '.join(said.split())}" for place, said in enumerate(shown, 1)]
        prompt = _MORE[chinese].format(shown="\n".join(lines), next=len(shown) + 1)
        return tuple(Source("seed", id_) for id_, _ in written), prompt

    def read(self, answer: Answer) -> tuple[list[str], list[Dropped]]:
        """The new tasks of the next answer, and what is dropped of it."""
        kept, dropped = [], []
        said = tasks_of(answer.text) if answer.fault is None else []
        if not said:
            dropped.append(Dropped(answer.fault or NO_TASKS))
        for instruction in said:
            reason = fault_of(instruction)
            if reason is None and not self._kept.is_new(instruction):
                reason = NOT_NEW
            if reason is not None:
                dropped.append(Dropped(reason))
                continue
            self._kept.add(instruction)
            kept.append(instruction)
        self._found += kept
        self._found_after.append(len(self._found))
        self._in_vain = 0 if kept else self._in_vain + 1
        if self._in_vain >= IN_VAIN or answer.fault == SPENT:
            self.more = False
        return kept, dropped


def tasks_of(said: str) -> list[str]:
    """The tasks of a numbered list; the first line may go on with the number that the prompt ended with."""
    first = said.lstrip()
    if first and not first[0].isdigit() and _LISTED.search(first):
        head = first.split("\n", 1)[0]
        # A preamble ends with a colon, or stands alone above a blank line.
        if not head.rstrip().endswith((":", "：")) and "\n\n" not in first[: len(head) + 2]:
            said = f"0. {first}"
    found = [" ".join(line.split()).strip("*").strip() for line in _LISTED.findall(said)]
    return [line[0].upper() + line[1:] for line in found if line]


def fault_of(instruction: str) -> str | None:
    """Why a task is none for a model of text, whatever stands beside it."""
    if not FEWEST_WORDS <= len(tokens_of(instruction)) <= MOST_WORDS:
        return LENGTH
    if _NOT_TEXT.search(instruction):
        return NOT_TEXT
    if _PROGRAM.match(instruction):
        return PROGRAM
    if not instruction[0].isalnum() or not (instruction[0].isascii() or is_chinese(instruction)):
        return BEGINNING
    return None


def _fill(task: Task, seeds: Sequence[tuple[str, SeedTask]], desk: Desk) -> _Filled:
    of_language = [seed for _, seed in seeds if is_chinese(seed.instruction) == is_chinese(task.instruction)]
    said = desk.ask(labelled_prompt(task.instruction, of_language), SURE)
    if said.fault is not None:
        return _Filled(None, said)
    labelled = True if _YES.match(said.text) else False if _NO.match(said.text) else None
    if labelled is None:
        return _Filled(None, Answer("", NO_LABEL))
    return _Filled(labelled, desk.ask(instances_prompt(task.instruction, of_language, labelled), SURE))


def labelled_prompt(instruction: str, seeds: Sequence[SeedTask]) -> str:
    chinese = is_chinese(instruction)
    words = _WORDS[chinese]
    labelled = [seed for seed in seeds if seed.is_classification][:EXAMPLES]
    others = [seed for seed in seeds if not seed.is_classification][:EXAMPLES]
    shown = [
        f"{words['task']}: {seed.instruction}\n{words['labelled']}: {words['yes' if seed.is_classification else 'no']}"
        for pair in zip_longest(labelled, others)
        for seed in pair
        if seed is not None
    ]
    shown.append(f"{words['task']}: {instruction}\n{words['labelled']}:")
    return _LABELLED[chinese].format(shown="\n\n".join(shown))


def instances_prompt(instruction: str, seeds: Sequence[SeedTask], labelled: bool) -> str:
    chinese = is_chinese(instruction)
    words = _WORDS[chinese]
    shown = []
    for seed in [seed for seed in seeds if seed.is_classification == labelled][:EXAMPLES]:
        parts = [f"{words['task']}: {seed.instruction}"]
        for number, one in enumerate(seed.instances, 1):
            given = [f"{words['input']}: {one.input}"] if one.input.strip() else []
            if labelled:
                parts += [f"{words['label']}: {one.output}", *given]
            else:
                parts += [f"{words['example']} {number}", *given, f"{words['output']}: {one.output}"]
        shown.append("\n".join(parts))
    shown.append(f"{words['task']}: {instruction}")
    return (_LABEL_FIRST if labelled else _INPUT_FIRST)[chinese].format(shown="\n\n".join(shown))


def made_of(task: Task, filled: _Filled) -> list[Made]:
    """The examples that come of a task, and what is dropped of it."""
    if filled.answer.fault is not None:
        return [Dropped(filled.answer.fault)]
    found = instances_of(filled.answer.text)
    if not found:
        return [Dropped(NO_INSTANCES)]
    made: list[Made] = []
    of_input: dict[str, set[str]] = {}
    for one in found:
        of_input.setdefault(one.input, set()).add(one.output)
    kept = 0
    for one in dict.fromkeys(found):
        if len(of_input[one.input]) > 1:
            made.append(Dropped(CONTRADICTS))
        elif not one.output or one.output == one.input or (one.output + one.input).endswith((":", "：")):
            made.append(Dropped(EMPTY))
        elif kept < MOST_INSTANCES:
            kept += 1
            made.append(Proposed("task", task.sources, task.instruction, one.output, one.input))
    return made


def instances_of(said: str) -> list[Instance]:
    """The examples that stand in an answer, the input or the label first."""
    marks = list(_PART.finditer(said))
    found: list[Instance] = []
    input_, label = "", None
    for mark, next_ in zip_longest(marks, marks[1:]):
        name = _NAMES[mark[1].casefold()]
        words = said[mark.end() : next_.start() if next_ is not None else len(said)].strip().strip("*").strip()
        if name == "input":
            input_ = "" if _NO_INPUT.match(words) else words
        elif name == "output":
            found.append(Instance(words, input_))
            input_ = ""
        else:
            if label is not None:
                found.append(Instance(label, input_))
            input_, label = "", words if name == "label" else None
    if label is not None:
        found.append(Instance(label, input_))
    return found
