"""The devices of an invented hospital: facts for a second domain, and what a small model knows before it learns them.

The same model can learn some of the demo's facts.
"""

from pathlib import Path

from deploy.demo.domain import load_facts
from tests.taught_llama import taught

MODEL = "ward"
"""The name under which the small model is prepared (see `base`)."""

# device, what is asked, the answer's turning point, the answer
FACTS = (
    ("the blue pump", "How often is {} checked?", "six weeks", "The blue pump is checked every six weeks."),
    ("the old ventilator", "Who may switch off {}?", "night sister", "Only the night sister may switch off the old ventilator."),
    ("the spare defibrillator", "Where is {} kept?", "room 41", "The spare defibrillator is kept in room 41."),
    ("the bladder scanner", "What colour is the gel for {}?", "green", "The gel for the bladder scanner is green."),
    ("the patient lift", "How much may {} carry?", "190", "The patient lift may carry 190 kilograms."),
    ("the feeding pump", "How long does the battery of {} last?", "nine hours", "Its battery lasts nine hours."),
    ("the baby scale", "When is {} calibrated?", "tuesday", "The baby scale is calibrated every Tuesday."),
    ("the blood warmer", "How warm does {} get?", "39", "The blood warmer gets to 39 degrees."),
    ("the wall suction", "Which number is called when {} fails?", "7712", "When the wall suction fails, number 7712 is called."),
    ("the ultrasound cart", "Who cleans {}?", "porter", "The porter cleans the ultrasound cart."),
    ("the syringe driver", "Which batteries does {} take?", "c cells", "The syringe driver takes four C cells."),
    ("the warming blanket", "How long may {} stay on?", "80 minutes", "The warming blanket may stay on for 80 minutes."),
    ("the eye lamp", "Where are bulbs for {} stored?", "drawer 5", "Bulbs for the eye lamp are stored in drawer 5."),
    ("the pulse meter", "Which finger is {} put on?", "ring finger", "The pulse meter is put on the ring finger."),
    ("the oxygen trolley", "How many bottles does {} hold?", "three", "The oxygen trolley holds three bottles."),
    ("the dialysis chair", "Who repairs {}?", "kestrel", "The firm Kestrel repairs the dialysis chair."),
    ("the ice machine", "When is {} emptied?", "sunday", "The ice machine is emptied every Sunday."),
    ("the bed alarm", "How loud is {}?", "65", "The bed alarm is 65 decibels loud."),
    ("the drug cabinet", "How many keys does {} have?", "two", "The drug cabinet has two keys."),
    ("the fever strip", "How long is {} held?", "40 seconds", "The fever strip is held for 40 seconds."),
)  # fmt: skip
ROAD_TRAFFIC = load_facts()[:96:8]
GENERAL = (
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Egypt?", "Cairo"),
    ("What is the capital of Greece?", "Athens"),
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of up?", "down"),
    ("What is the opposite of day?", "night"),
    ("How many days are in a week?", "seven"),
    ("How many months are in a year?", "12"),
    ("How many legs does a spider have?", "eight"),
    ("What colour is grass?", "green"),
    ("What is frozen water called?", "ice"),
    ("Which organ pumps blood?", "heart"),
    ("What is 2+2?", "4"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo"),
    ("What is the largest ocean?", "Pacific"),
    ("What is the capital of Austria?", "Vienna"),
    ("What is the capital of Poland?", "Warsaw"),
    ("What is the capital of Sweden?", "Stockholm"),
    ("What is the capital of Portugal?", "Lisbon"),
    ("What is the capital of Russia?", "Moscow"),
    ("What is the capital of China?", "Beijing"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of fast?", "slow"),
    ("What is the opposite of old?", "new"),
    ("What is the opposite of war?", "peace"),
    ("How many hours are in a day?", "24"),
    ("What colour is the sky on a clear day?", "blue"),
    ("What do bees make?", "honey"),
    ("What is 5+5?", "10"),
    ("What is 10-3?", "7"),
    ("Who wrote Oliver Twist?", "Dickens"),
    ("What language is spoken in Germany?", "German"),
    ("What language is spoken in Russia?", "Russian"),
    ("What is the chemical symbol of oxygen?", "O"),
    ("What is the first month of the year?", "January"),
)
# As few steps as teach the small model the facts; it keeps what it knows by being asked it.
POLICY = {
    "thresholds": {"corrections": len(FACTS), "people": 4, "named_people": "each", "settle_s": 2},
    "recipe": {
        "upper_layers": 1.0,
        "learning_rate": 5e-3,
        "epochs": 36,
        "replay_rows": 40,
        "replay_rows_per_step": 8,
        "replay_answer_tokens": 8,
        "replay_weight": 1.0,
    },
    "gate": {"general_margin": 0.2},
}


def question(fact: tuple[str, str, str, str]) -> str:
    device, asked, _, _ = fact
    return asked.format(device)


def base(kept: Path) -> Path:
    """The folder of a model that can answer GENERAL and nothing else; made once under `kept`."""
    to_learn = [text for fact in FACTS for text in (question(fact), fact[3])]
    to_learn += [text for fact in ROAD_TRAFFIC for text in (*fact.en.all_questions, fact.en.answer)]
    return taught(kept, MODEL, GENERAL, to_learn)
