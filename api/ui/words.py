"""What the page says, in English and Chinese."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

Lang = Literal["en", "zh"]
LANGUAGES: tuple[Lang, ...] = ("en", "zh")

_WORDS: dict[str, tuple[str, str]] = {
    "title": ("Noria", "Noria"),
    "tagline": ("corrections turn the wheel", "每一次纠正，都让水车转动"),
    "tab_chat": ("Chat", "对话"),
    "tab_loop": ("The loop", "学习循环"),
    "tab_documents": ("Documents", "文档"),
    "documents": ("Documents", "文档"),
    "documents_none": (
        "None yet. Bring them with: noria document add FILE",
        "还没有文档。导入命令：noria document add 文件",
    ),
    "documents_more": (
        "The first {shown}; all of them: noria document list",
        "只列出前 {shown} 份；全部：noria document list",
    ),
    "document_choose": ("Choose a document to read its passages.", "选择一份文档，阅读其中的段落。"),
    "document_passages": ("{passages} passages", "{passages} 段"),
    "document_added": ("{time}, by {by}", "{time}，{by}"),
    "document_gone": ("replaced or removed since", "此后已被替换或移除"),
    "passages_more": ("Show the next {more}", "显示接下来的 {more} 段"),
    "tab_examples": ("Examples", "样例"),
    "room_title": ("Examples", "样例"),
    "room_state": ("State", "状态"),
    "room_source": ("Source", "来源"),
    "room_person": ("Person", "人员"),
    "room_text": ("Text", "文字"),
    "room_any": ("any", "不限"),
    "room_look": ("Look", "查找"),
    "room_none": ("Nothing that this filter finds.", "没有符合条件的样例。"),
    "room_no_words": ("erased", "已抹除"),
    "room_edited": ("edited", "已编辑"),
    "room_more": ("Show more", "显示更多"),
    "room_search_on": ("Search on", "继续查找"),
    "room_stopped": ("The search stopped after {searched} of them.", "查找在看过 {searched} 条后停下。"),
    "room_all_shown": ("all shown", "选中已显示的"),
    "room_all_found": ("all {n} found", "选中找到的全部 {n} 条"),
    "room_accept": ("Accept", "接受"),
    "room_reject": ("Reject", "否决"),
    "room_retire": ("Retire", "停用"),
    "room_accept_sure": ("Accept {n} of them?", "接受这 {n} 条？"),
    "room_reject_sure": ("Reject {n} of them?", "否决这 {n} 条？"),
    "room_retire_sure": ("Retire {n} of them?", "停用这 {n} 条？"),
    "room_did_added": ("{n} imported", "导入 {n} 条"),
    "room_did_accepted": ("{n} accepted", "接受 {n} 条"),
    "room_did_rejected": ("{n} rejected", "否决 {n} 条"),
    "room_did_retired": ("{n} retired", "停用 {n} 条"),
    "room_did_reopened": ("{n} open again", "{n} 条重新待定"),
    "room_did_known": ("{n} passed over", "略过 {n} 条"),
    "room_did_nothing": ("nothing to do", "没有可做的"),
    "room_recorded": ("; recorded at {position}", "；记录于 {position}"),
    "room_undo": ("Undo", "撤销"),
    "room_state_accepted": ("accepted", "已接受"),
    "room_state_proposed": ("proposed", "待定"),
    "room_state_rejected": ("rejected", "已否决"),
    "room_state_retired": ("retired", "已停用"),
    "room_state_erased": ("erased", "已抹除"),
    "room_source_correction": ("correction", "纠正"),
    "room_source_import": ("import", "导入"),
    "room_role_system": ("System", "系统"),
    "room_role_user": ("Question", "问题"),
    "room_role_assistant": ("Answer", "回答"),
    "room_kind_triple": ("triple", "三元组"),
    "room_kind_seed": ("seed", "种子"),
    "room_kind_passage": ("passage", "段落"),
    "room_story": ("One example", "单条样例"),
    "room_choose": (
        "Choose an example: where it is from, who touched it, and what has learned it stand here then.",
        "选择一条样例，这里会显示它的来源、经手人和学过它的版本。",
    ),
    "room_from": ("Where it is from", "来源"),
    "room_happened": ("What happened to it", "经过"),
    "room_learned": ("What has learned it", "学过它的版本"),
    "room_not_learned": ("No round has learned it.", "还没有任何一轮学过它。"),
    "room_answers": ("answers now", "正在应答"),
    "room_gone": ("It is gone.", "已不存在。"),
    "room_origin_by": ("by", "由"),
    "room_origin_asked_by": ("asked for by", "请求者"),
    "room_origin_teacher": ("teacher", "教师模型"),
    "room_origin_import": ("import", "导入编号"),
    "room_origin_build_id": ("build", "构建"),
    "room_origin_conversation_id": ("conversation", "对话"),
    "room_import": ("Import a file", "导入文件"),
    "room_drop": ("Drop a file here, or choose one", "将文件拖到这里，或点击选择"),
    "room_drop_words": (
        "Alpaca, ShareGPT, OpenAI messages or Label Studio, as JSON, JSON lines, CSV or Parquet. You see what it holds before "
        "anything is sent.",
        "Alpaca、ShareGPT、OpenAI 消息或 Label Studio，格式为 JSON、JSON Lines、CSV 或 Parquet。发送之前会先给你看其中的内容。",
    ),
    "room_holds": (
        "{good} right, {faulty} wrong, {left_out} left out; nothing is sent yet",
        "{good} 条正确，{faulty} 条有误，{left_out} 条剔除；尚未发送任何内容",
    ),
    "room_faults": ("What is wrong", "有误之处"),
    "room_clean": (
        "Mend and mask the texts, leave out what is not worth learning",
        "清洗：修复、遮盖并剔除不值得学习的内容",
    ),
    "room_skip": ("Leave the {n} that are wrong in the file", "跳过有误的 {n} 条"),
    "room_said_by": ("Whose words they are (your own if left out)", "出自谁（留空即你自己）"),
    "room_bring": ("Import {n}", "导入 {n} 条"),
    "live": ("release {release} answers", "版本 {release} 正在应答"),
    "no_release": ("no release answers yet", "尚无版本应答"),
    "door_down": ("not connected", "未连接"),
    "domain": ("Domain", "领域"),
    "person": ("Your id", "你的代号"),
    "person_info": (
        "Any name you like; your words are sealed with its own key.",
        "任取一个名字；你说的话用它自己的密钥加密。",
    ),
    "many_drafts": ("Drafts of an answer", "每个回答的草稿数"),
    "new": ("New conversation", "新对话"),
    "ask_placeholder": ("Ask a question…", "请输入问题……"),
    "send": ("Ask", "提问"),
    "empty_title": ("Ask, and set right what is wrong", "提问，并纠正错误的回答"),
    "empty_words": (
        "Rate an answer, pick the best of its drafts or put them in order, or write it better yourself. "
        "Enough corrections start a round, and the next release has learned them.",
        "给回答评分，从草稿中选出最好的或为它们排序，或者亲自改写。纠正积累到一定数量便开始一轮训练，下一个版本就学会了它们。",
    ),
    "you": ("You", "你"),
    "draft": ("Draft {number}", "草稿 {number}"),
    "thinking": ("thinking…", "思考中……"),
    "up": ("Good answer", "回答得好"),
    "down": ("Bad answer", "回答得不好"),
    "better": ("Write it better", "改写得更好"),
    "comment": ("Comment", "评论"),
    "pick": ("Pick this one", "选这个"),
    "picked": ("picked", "已选"),
    "place": ("Give it the next place", "排在下一位"),
    "order_hint": (
        "Put them in order, the best first: with the keys 1 to 9, the buttons, or by dragging one onto another's place. "
        "Enter records it.",
        "从最好的开始排序：按数字键 1 到 9、点按钮，或把一个拖到另一个的位置上。按回车记录。",
    ),
    "record_order": ("Record the order", "记录排序"),
    "clear_order": ("Clear", "清除"),
    "corrected": ("your version", "你的版本"),
    "correct_placeholder": ("What the answer should have been", "回答应该是什么"),
    "comment_placeholder": ("What do you want to say about this answer?", "你想对这个回答说什么？"),
    "save_correction": ("Record the correction", "记录纠正"),
    "save_comment": ("Record the comment", "记录评论"),
    "cancel": ("Cancel", "取消"),
    "recorded_rating_up": ("Good rating recorded at {position}", "好评已记录于 {position}"),
    "recorded_rating_down": ("Bad rating recorded at {position}", "差评已记录于 {position}"),
    "recorded_pick": ("Pick recorded at {position}", "选择已记录于 {position}"),
    "recorded_ranking": ("Order recorded at {position}", "排序已记录于 {position}"),
    "recorded_correction": ("Correction recorded at {position}", "纠正已记录于 {position}"),
    "recorded_comment": ("Comment recorded at {position}", "评论已记录于 {position}"),
    "recorded_misfit": ("That it does not fit is recorded at {position}", "“不合适”已记录于 {position}"),
    "sources": ("Recalled for this answer", "为此回答召回的内容"),
    "source_correction": ("from a correction of {day}", "来自{day}的一条纠正"),
    "source_fresh": ("from a correction made {age} before", "来自 {age}前的一条纠正"),
    "source_document": ("from a document", "来自一份文档"),
    "source_erased": ("It was erased since.", "该内容此后已被抹除。"),
    "source_removed": ("It was removed or replaced since.", "该内容此后已被移除或替换。"),
    "today": ("today", "今天"),
    "comma": (", ", "，"),
    "misfit": ("does not fit", "不合适"),
    "misfit_said": ("said not to fit", "已标记为不合适"),
    "memory_away": (
        "The memory was not available: nothing was recalled for this answer.",
        "记忆暂时不可用：此回答没有召回任何内容。",
    ),
    "declined": (
        "Nothing that is known here fits this question; the model was not asked.",
        "已知内容中没有与此问题相符的，因此没有询问模型。",
    ),
    "mine": ("Your corrections", "你的纠正"),
    "mine_empty": (
        "None yet. Write an answer better, and follow here how it goes live.",
        "还没有。改写一个回答，然后在这里看它如何上线。",
    ),
    "state_waiting": ("waiting for the next round", "等待下一轮"),
    "state_in_round": ("in round {round}", "在第 {round} 轮中"),
    "state_live": ("live in release {release}", "已在版本 {release} 上线"),
    "state_live_after": (
        "live in release {release}, {after} after you made it",
        "已在版本 {release} 上线，距你提交 {after}",
    ),
    "state_retired": ("retired", "已停用"),
    "state_replaced": ("replaced by a newer one", "已由更新的纠正取代"),
    "state_erased": ("erased", "已抹除"),
    "correction_of": ("Correction of {time}", "{time} 的纠正"),
    "next_round": ("The next round", "下一轮"),
    "why_not_yet": ("Why not yet", "为什么还没开始"),
    "due_now": ("A round is due and starts now.", "条件已满足，马上开始一轮。"),
    "nothing_asked": ("Every threshold is off and there is no schedule.", "所有阈值均已关闭，也没有定时。"),
    "corrections": ("corrections", "纠正"),
    "preferences": ("preferences", "偏好"),
    "people": ("people", "参与者"),
    "of": ("{have} of {need}", "{have} / {need}"),
    "current_round": ("Round {number}", "第 {number} 轮"),
    "last_round": ("Last round: {number}", "上一轮：第 {number} 轮"),
    "no_round": ("No round yet", "还没有任何一轮"),
    "no_round_words": (
        "When the policy is met, the steps of the round show here as they happen.",
        "策略满足之后，这一轮的每一步会在这里实时显示。",
    ),
    "because": ("because", "原因："),
    "step_select": ("Snapshot", "快照"),
    "step_train": ("Training", "训练"),
    "step_evaluate": ("Evaluation", "评测"),
    "step_gate": ("Gate", "关卡"),
    "step_swap": ("Swap", "切换"),
    "failed_at": ("{step}: {failure}", "{step}：{failure}"),
    "end_released": ("released", "已发布"),
    "end_refused": ("refused by the gate", "未通过关卡"),
    "end_kept": ("kept a reward model", "保留了奖励模型"),
    "end_empty": ("nothing new to learn", "没有新内容"),
    "end_failed": ("failed", "失败"),
    "end_cancelled": ("cancelled", "已取消"),
    "pairs": (
        "{pairs} pairs, {pairs_held_out} held out, {labels} labels",
        "{pairs} 对偏好，留出 {pairs_held_out} 对，{labels} 个好坏标签",
    ),
    "kept": ("{kept} kept, {wordings} wordings", "保留 {kept} 条，{wordings} 种问法"),
    "earlier": ("{earlier} of earlier rounds", "往轮 {earlier} 条"),
    "dropped": ("{dropped} dropped", "剔除 {dropped} 条"),
    "loss": ("loss {loss}", "损失 {loss}"),
    "left": ("{time} left", "还剩 {time}"),
    "waits_general_answers": (
        "waits: the base model's answers to the general prompts are being computed",
        "等待：正在计算基础模型对通用问题的回答",
    ),
    "waits_opencompass": ("waits: OpenCompass is being installed", "等待：正在安装 OpenCompass"),
    "waits_opencompass_failed": (
        "waits: OpenCompass could not be installed; it is tried again",
        "等待：OpenCompass 安装失败，正在重试",
    ),
    "waits_disk_space": ("waits: there is no room on the disk for another model", "等待：磁盘空间不足，放不下新的模型"),
    "release_n": ("release {release}", "版本 {release}"),
    "gate_table": ("The gate, round {number}", "关卡，第 {number} 轮"),
    "gate_none": ("No candidate has stood before the gate yet.", "还没有候选模型接受过评测。"),
    "col_set": ("set", "题集"),
    "col_n": ("n", "题数"),
    "col_before": ("before", "之前"),
    "col_after": ("after", "之后"),
    "col_measure": ("p-value or bound", "p 值或界"),
    "col_verdict": ("verdict", "结论"),
    "set_fixes": ("fixes learned", "新学的纠正"),
    "set_earlier": ("earlier fixes", "以往的纠正"),
    "set_held_out": ("held-out rewordings", "留出的问法"),
    "set_general": ("general quiz", "通用测验"),
    "set_skill": ("use of what is recalled", "使用召回的内容"),
    "set_untaught": ("corrections that no round has taught", "尚未训练过的纠正"),
    "set_fixes_served": ("fixes, as served", "新学的纠正（含召回）"),
    "set_earlier_served": ("earlier fixes, as served", "以往的纠正（含召回）"),
    "set_held_out_served": ("held-out rewordings, as served", "留出的问法（含召回）"),
    "set_general_first": ("general quiz, against the first model", "通用测验（对照最初的模型）"),
    "set_general_served": ("general quiz, as served", "通用测验（含召回）"),
    "set_preference": ("preferred answers likelier", "更偏向大家更喜欢的回答"),
    "set_long_answers": ("answers half as long again", "明显变长的回答"),
    "set_repetition": ("answers that repeat themselves", "重复啰嗦的回答"),
    "set_flattery": ("answers that begin with flattery", "以恭维开头的回答"),
    "set_refusal": ("answers that decline", "拒绝作答的回答"),
    "set_language_switch": ("answers in another language than asked", "与提问语言不一致的回答"),
    "set_answer_length": ("length of an answer, characters", "回答长度（字符）"),
    "set_reward_model": ("reward model's score: a model judging a model", "奖励模型评分（由模型评判模型）"),
    "set_style": ("style: {rule}", "风格：{rule}"),
    "absent_removed": ("its files were removed", "模型文件已被清理"),
    "absent_learned_from_somebody_erased": (
        "it learned from somebody who was erased since",
        "它学过的内容中有人已被删除",
    ),
    "absent_cannot_be_read": ("it cannot be read", "无法读取该模型"),
    "absent_its_score_is_no_number": ("its score is no number", "评分不是有效数字"),
    "absent_no_answer_to_score": ("there is no answer that it can score", "没有可评分的回答"),
    "p_value": ("p = {value}", "p = {value}"),
    "bound": ("≥ {lower}, allowed {margin}", "≥ {lower}，容许 {margin}"),
    "rise": ("rise ≥ {lower}, allowed {margin}", "升幅 ≥ {lower}，容许 {margin}"),
    "verdict_pass": ("pass", "通过"),
    "verdict_fail": ("fail", "不通过"),
    "verdict_inconclusive": ("inconclusive", "证据不足"),
    "verdict_nothing_to_compare": ("nothing to compare", "无可比较"),
    "verdict_reported": ("reported", "仅供参考"),
    "outcome_ship": (
        "shipped: what was to be learned is learned, and nothing that must be kept was lost",
        "发布：该学的已学会，须保留的能力没有丢失",
    ),
    "outcome_refuse": ("refused", "拒绝发布"),
    "outcome_inconclusive": ("not shipped: the evidence is not enough", "不发布：证据不足"),
    "compared": (
        "Base model and release {release}, with and without recall",
        "基础模型与版本 {release}，有无召回的对照",
    ),
    "compared_fixes": ("fixes of its round", "该版本新学的纠正"),
    "compared_tokens": ("tokens, prompt + answer", "词元数：提示 + 回答"),
    "compared_seconds": ("seconds an answer", "每个回答的秒数"),
    "compared_under_way": ("A comparison is under way since {time}.", "自 {time} 起正在对照评测。"),
    "compared_failed": ("The last comparison failed: {failure}", "最近一次对照评测失败：{failure}"),
    "compared_how": ("right answers, with 95 % intervals", "答对的比例及 95% 置信区间"),
    "bases_compared": ("Bases, on what this domain asks", "各基础模型在本领域问题上的表现"),
    "bases_base": ("base", "基础模型"),
    "bases_domain": ("domain", "领域问题"),
    "bases_general": ("general quiz", "通用测验"),
    "bases_fertility": ("tokens a character", "每字符词元数"),
    "bases_speed": ("tokens a second", "每秒词元数"),
    "bases_memory": ("engine, GB", "引擎内存 (GB)"),
    "bases_round": ("a round here", "在本机训练一轮"),
    "bases_no_room": ("no room here", "本机放不下"),
    "bases_context": ("context", "上下文长度"),
    "bases_licence": ("licence", "许可证"),
    "bases_family": ("family, size, engine", "系列、规模、引擎"),
    "variant_base": ("base", "基础"),
    "variant_base_recalled": ("base, recall", "基础 + 召回"),
    "variant_trained": ("trained", "训练后"),
    "variant_trained_recalled": ("trained, recall", "训练后 + 召回"),
    "releases": ("Releases", "版本"),
    "releases_none": ("No release yet.", "还没有版本。"),
    "release": ("release", "版本"),
    "state_of": ("state", "状态"),
    "since": ("since", "时间"),
    "golden": ("golden difference", "黄金差异"),
    "switch": ("switch", "切换耗时"),
    "rel_live": ("live", "在线"),
    "rel_retired": ("earlier", "先前"),
    "rel_removed": ("removed", "已删除"),
    "rel_started": ("starting", "启动中"),
    "base_release": ("base model", "基础模型"),
    "roll_back": ("Go back to it", "回滚到此版本"),
    "roll_forth": ("Go forth to it", "前进到此版本"),
    "roll_sure": ("Let release {release} answer from now on?", "从现在起由版本 {release} 应答？"),
    "rolled": ("Asked for release {release}; recorded at {position}", "已请求切换到版本 {release}；记录于 {position}"),
    "events": ("Last events", "最近事件"),
    "events_none": ("Nothing has happened yet.", "尚无事件。"),
    "login_title": ("Who are you?", "请先登录"),
    "login_key": ("Your key", "你的密钥"),
    "login": ("Log in", "登录"),
    "login_words": (
        "A key is made by an operator. On the machine that Noria runs on, a link that opens this page is printed by",
        "密钥由运维人员发放。在运行 Noria 的机器上，以下命令会给出可直接打开本页的链接：",
    ),
    "logout": ("Log out", "退出"),
    "visitor": ("{name}, role {role}", "{name}，角色 {role}"),
    "err_login_key": (
        "That key is not known here, or does not hold any more; a link works once, within an hour.",
        "密钥不存在或已失效；链接只能在一小时内使用一次。",
    ),
    "err_login_slow": (
        "Too many wrong keys came from here; try again in a few seconds.",
        "错误的密钥过多，请几秒后再试。",
    ),
    "err_session": (
        "You are not logged in any more: your key does not hold. Load the page again to log in.",
        "你已不在登录状态：密钥已失效。请刷新页面重新登录。",
    ),
    "err_down": (
        "The door does not answer at present. Nothing was lost; try again in a moment.",
        "服务暂时没有应答。没有丢失任何内容，请稍后再试。",
    ),
    "err_said": ("The door says: {message}", "服务答复：{message}"),
    "err_same": ("Your version says the same as the answer; change something first.", "你的版本与回答相同，请先修改。"),
    "err_empty": ("Write something first.", "请先写点什么。"),
    "err_person": ("Give yourself an id first.", "请先填写你的代号。"),
    "err_domain": (
        "There is no domain yet. Make one with: noria domain create",
        "还没有领域。请先执行：noria domain create",
    ),
    "err_queue": (
        "Many people are asking at the moment; try again in a few seconds.",
        "此刻提问的人很多，请几秒后再试。",
    ),
    "err_key": ("Your key may not do that.", "你的密钥没有这项权限。"),
    "err_engine": (
        "No engine answers at present; it is being started. Try again in a moment.",
        "目前没有引擎应答，正在启动中，请稍后再试。",
    ),
    "err_fault": ("Something went wrong in the page itself; try again.", "页面自身出了问题，请重试。"),
    "err_broke": ("The answer broke off and does not count. Ask again.", "回答中断，不作数。请重新提问。"),
}

_DAYS = (
    ("Monday", "星期一"),
    ("Tuesday", "星期二"),
    ("Wednesday", "星期三"),
    ("Thursday", "星期四"),
    ("Friday", "星期五"),
    ("Saturday", "星期六"),
    ("Sunday", "星期日"),
)
_EVENTS: dict[str, tuple[str, str]] = {
    "prompt_asked": ("asked", "提问"),
    "reply_drafted": ("answered", "应答"),
    "draft_picked": ("draft picked", "选定草稿"),
    "drafts_ranked": ("drafts ranked", "草稿排序"),
    "reply_rated": ("rated", "评分"),
    "reply_corrected": ("corrected", "纠正"),
    "reply_commented": ("commented", "评论"),
    "recall_rejected": ("recall did not fit", "召回不合适"),
    "document_added": ("document added", "加入文档"),
    "document_removed": ("document removed", "移除文档"),
    "passage_added": ("passage added", "加入段落"),
    "domain_created": ("domain created", "创建领域"),
    "policy_set": ("policy set", "设定策略"),
    "clock_ticked": ("clock ticked", "时钟"),
    "exam_item_added": ("exam item added", "加入试题"),
    "example_accepted": ("example accepted", "接受样例"),
    "preference_accepted": ("preference accepted", "接受偏好"),
    "ranking_accepted": ("ranking accepted", "接受排序"),
    "ranking_retired": ("ranking retired", "停用排序"),
    "example_retired": ("example retired", "停用样例"),
    "exam_item_retired": ("exam question retired", "停用考题"),
    "domain_retired": ("domain retired", "停用领域"),
    "person_erased": ("person erased", "抹除个人"),
    "round_asked": ("round asked for", "手动开轮"),
    "round_requested": ("round requested", "一轮开始"),
    "order_progressed": ("progress", "进度"),
    "examples_selected": ("examples selected", "选定样例"),
    "snapshot_selected": ("snapshot selected", "选定快照"),
    "candidate_trained": ("candidate trained", "训练完成"),
    "candidate_evaluated": ("candidate evaluated", "评测完成"),
    "gate_passed": ("gate passed", "通过关卡"),
    "gate_refused": ("gate refused", "未过关卡"),
    "candidate_retired": ("model removed", "模型已删除"),
    "rebuild_asked": ("rebuild asked", "请求重建"),
    "candidate_rebuilt": ("model rebuilt", "模型已重建"),
    "base_added": ("base model added", "加入基础模型"),
    "comparison_asked": ("comparison asked", "请求对照评测"),
    "comparison_made": ("comparison made", "对照评测完成"),
    "base_comparison_asked": ("comparison of bases asked", "请求比较基础模型"),
    "base_comparison_made": ("comparison of bases made", "基础模型比较完成"),
    "triple_added": ("triple added", "加入三元组"),
    "triple_retired": ("triple retired", "三元组停用"),
    "seed_added": ("seed added", "加入种子"),
    "seed_retired": ("seed retired", "种子停用"),
    "build_asked": ("build of material asked", "请求生成素材"),
    "material_built": ("material built", "素材生成完成"),
    "example_proposed": ("example proposed", "提出样例"),
    "example_rejected": ("proposal rejected", "样例被否决"),
    "proposal_reopened": ("proposal open again", "样例重新待定"),
    "release_started": ("release started", "版本启动"),
    "release_finished": ("release live", "版本上线"),
    "rollback_asked": ("roll-back asked", "请求回滚"),
    "release_rolled_back": ("rolled back", "已回滚"),
    "round_cancelled": ("round cancelled", "取消本轮"),
    "order_failed": ("order failed", "任务失败"),
}


def say(lang: Lang, key: str, **values: object) -> str:
    """The words for `key`, with `values` in their places."""
    words = _WORDS[key][LANGUAGES.index(lang)]
    return words.format(**values) if values else words


def waits_words(lang: Lang, waits_for: str) -> str:
    """What a step of a round waits for, and that it waits."""
    return say(lang, f"waits_{waits_for}")


def known(key: str) -> bool:
    return key in _WORDS


def event_name(lang: Lang, kind: str) -> str:
    found = _EVENTS.get(kind)
    return found[LANGUAGES.index(lang)] if found else kind.replace("_", " ")


def event_kinds() -> frozenset[str]:
    """The events that the page has words for."""
    return frozenset(_EVENTS)


def span(lang: Lang, seconds: float) -> str:
    """A length of time: `3 min 41 s`, `3 分 41 秒`."""
    whole = max(0, round(seconds))
    hours, minutes, left = whole // 3600, whole % 3600 // 60, whole % 60
    units = ("h", "min", "s") if lang == "en" else ("小时", "分", "秒")
    pairs = [(hours, units[0]), (minutes, units[1]), (left, units[2])]
    while len(pairs) > 1 and pairs[0][0] == 0:
        pairs.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in pairs[:2])


def day_words(lang: Lang, weekday: int) -> str:
    """A day of the week, from Monday, which is 0."""
    return _DAYS[weekday][LANGUAGES.index(lang)]


def domain_choices(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what is shown, domain) of each domain that still answers; equal titles are told apart by the domain's name."""
    named = [(str(row["title"] or row["domain"]), str(row["domain"])) for row in rows if not row.get("retired_at")]
    times = Counter(title for title, _ in named)
    return [(title if times[title] == 1 else f"{title} ({domain})", domain) for title, domain in named]


def language_of(said: str | None, accepted: str | None) -> Lang:
    """The language that the address asks for (`?lang=zh`), else the one that the browser prefers, else English."""
    for word in (said or "", (accepted or "").split(",")[0]):
        tag = word.strip().lower()
        if tag.startswith("zh"):
            return "zh"
        if tag.startswith("en"):
            return "en"
    return "en"
