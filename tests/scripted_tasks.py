"""A teacher of Self-Instruct that answers by a script: what it says hangs on its prompt alone, and some of it is rubbish."""

import random
import re

from streams.syllogisms import is_chinese
from tests.teacher_server import Reply

_EN = (
    "Explain Describe Compare Summarise List Rewrite Judge Draft Sort Name Find Check Translate Shorten Advise",
    "fine licence junction cyclist pedestrian expressway insurance trailer tunnel bridge siren belt helmet permit ferry",
    "at night|in heavy rain|near a school|behind a bus|on a slope|after an accident|during repairs|in a convoy|at dawn",
    "for a visitor|in two sentences|as a letter|with one example|for a judge|without any numbers|as a list|in one line",
)
_ZH = (
    "请解释 请比较 请列出 请改写 请判断 请概括 请说明 请起草 请归纳 请核对 请翻译 请压缩",
    "罚款标准 驾驶证期限 路口通行权 骑车人责任 行人过街 高速限速 保险赔付 挂车牵引 隧道行车 桥梁限重 警车避让 头盔佩戴",
    "夜间|暴雨中|学校附近|公交车后方|坡道上|事故之后|灯光失效时|施工期间|车队中|清晨",
    "给外地游客看|用两句话|写成书信|举一个例子|供法官参考|不用数字|讲给孩子听|列成清单|只写一行",
)


def answer(prompt: str, words: int = 0) -> Reply:
    """`words`: so many made-up words make its tasks differ; none: few do."""
    by = random.Random(prompt)
    chinese = is_chinese(prompt.rsplit("\n", 2)[-2] if "\n" in prompt else prompt)
    if re.search(r"^\d+\.\Z", prompt.rsplit("\n", 1)[-1]):
        return _tasks(by, chinese, words)
    if prompt.endswith(("Fixed labels:", "固定标签:")):
        chinese = prompt.endswith("固定标签:")
        said = ("是" if chinese else "Yes"), ("否。" if chinese else "No."), "…"
        return by.choices(said, (2, 7, 1))[0]
    chinese = is_chinese(prompt.rsplit(": ", 1)[-1])
    if prompt.startswith(("For each task name its labels", "请为每个任务依次")):
        if chinese:
            return "标签: 合法\n输入: 他停了下来。\n标签: 违法\n输入: 他没有停。"
        return "Label: Allowed\nInput: He stopped.\nLabel: Forbidden\nInput: He did not stop."
    number = by.randrange(10**6)
    if chinese:
        fine = f"示例 1\n输入: 案情{number}\n输出: 处理结果{number}\n示例 2\n输出: 另一个结果{number}"
    else:
        fine = f"Example 1\nInput: case {number}\nOutput: result {number}\nExample 2\nOutput: another result {number}"
    broken = {"message": {"content": "Output: it"}, "finish_reason": "length"}
    echo = f"Input: case {number}\nOutput: case {number}"
    return by.choices((fine, broken, "I would rather not.", echo), (17, 1, 1, 1))[0]


def _tasks(by: random.Random, chinese: bool, words: int) -> Reply:
    if by.random() < 0.05:
        return "" if by.random() < 0.5 else (200, b"<html>Welcome</html>")
    lines = []
    for number in range(9, 17):
        rubbish = by.random()
        if rubbish < 0.05:
            lines.append(f"{number}. 画一张路口的图片。" if chinese else f"{number}. Draw a picture of a junction.")
        elif rubbish < 0.1:
            lines.append(f"{number}. 好。" if chinese else f"{number}. Go on.")
        else:
            verb, thing, when, how = (
                by.choice(part.split("|" if "|" in part else None)) for part in (_ZH if chinese else _EN)
            )
            if chinese:
                new = "".join(chr(0x4E00 + by.randrange(words)) for _ in range(8)) if words else ""
                lines.append(f"{number}. {verb}{when}{new}的{thing}，{how}。")
            else:
                new = " ".join(f"w{by.randrange(words)}" for _ in range(6)) if words else "it"
                lines.append(f"{number}. {verb} the {thing} {when}, {new}, {how}.")
    return "\n".join(lines)
