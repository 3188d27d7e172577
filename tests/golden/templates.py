"""Records how transformers renders chat templates: DIR/*.jinja to one JSON file.

    python tests/golden/templates.py tests/golden/templates tests/golden/templates.json

`tests/it/data/templates.rs` renders them again and compares byte for byte.
"""

import datetime
import json
import pathlib
import sys

import transformers.utils.chat_template_utils as hf


class Clock(datetime.datetime):
    """The day that this library always says it is."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


hf.datetime = Clock

USER = {"role": "user", "content": " What is \"x\"? <é> & 'y'\n"}
ANSWER = {"role": "assistant", "content": "A letter.\n\nBye \\n 'q'"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFour."}
AGAIN = {"role": "user", "content": "Und 2 + 2? 日本 🙂"}
SYSTEM = {"role": "system", "content": "Be kind.\t"}

DIALOGUES = {
    "asked": [USER],
    "asked with a system": [SYSTEM, USER],
    "answered": [USER, ANSWER],
    "asked again": [SYSTEM, USER, ANSWER, AGAIN],
    "answered twice": [USER, THOUGHT, AGAIN, THOUGHT],
    "nothing said": [SYSTEM, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "asked twice": [USER, AGAIN],
    "an unknown role": [{"role": "critic", "content": "no"}, USER],
    "nobody": [],
}


def render(source, messages, add):
    """The text, or None where the template refuses the messages."""
    try:
        texts, _ = hf.render_jinja_template(
            conversations=[messages],
            chat_template=source,
            add_generation_prompt=add,
            bos_token="<s>",
            eos_token="</s>",
        )
        return texts[0]
    except Exception:
        return None


def main(folder, out):
    dialogues = [{"name": name, "messages": messages} for name, messages in DIALOGUES.items()]
    templates = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_bytes().decode()
        templates[path.stem] = [
            [render(source, d["messages"], add) for add in (False, True)] for d in dialogues
        ]
    record = {"transformers": __import__("transformers").__version__, "dialogues": dialogues, "templates": templates}
    text = json.dumps(record, ensure_ascii=False, indent=1)
    pathlib.Path(out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
