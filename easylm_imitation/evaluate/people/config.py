"""What a study of people asks, of how many, and what each of them is shown."""
import dataclasses
from typing import Literal

QUESTIONS = {"paper": "Which answer is better, all in all?", "tulu": "Which answer is more helpful?"}
CHOICES = {
    "paper": ("A is better", "About the same", "B is better"),
    "tulu": ("A is clearly better", "A is slightly better", "Tie", "B is slightly better", "B is clearly better")}
ACCEPTABLE = "Is this acceptable? It does what was asked, has no significant error, and no text without meaning."
INSTRUCTIONS = ("Read the request and both answers, then say which one you prefer. Which of them is called A is drawn "
                "anew each time. You can go back and change what you said, or close the page and continue later with "
                "the same link.")


@dataclasses.dataclass(frozen=True)
class PeopleConfig:
    """A study. `question`, `wording`, `ratings` and `markdown` are part of what is measured; the rest may change while
    it runs."""
    question: Literal["paper", "tulu"] = "paper"    # three ways; or acceptable or not, and five ways
    wording: str = ""                   # of the question; "": our own
    ratings: int = 3                    # people who rate each pair
    raters: int = 3                     # personal links that are made
    crowd: int = 0                      # people whom one shared link lets in, for a crowd platform; 0: there is none
    items: int = 0                      # pairs that one person is shown; 0: all that need ratings
    checks: int = 2                     # attention checks among them
    pass_share: float = 0.5             # of their checks that raters must pass to be counted
    lease_minutes: float = 60.0         # after which a pair that was shown and not rated goes to somebody else
    markdown: bool = False              # show lists, bold and code as such, not as they are written
    title: str = "Which answer is better?"
    instructions: str = INSTRUCTIONS
    completion: str = ""                # the code shown at the end; "": one of each rater's own
    address: str = ""                   # how raters reach the server, such as https://study.example.org; "": host, port

    def __post_init__(self):
        for name in ("ratings", "items", "raters", "crowd", "checks"):
            least = 1 if name == "ratings" else 0
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.pass_share <= 1:
            raise ValueError(f"pass_share is {self.pass_share}; it is a share, from 0 to 1")
        if not self.lease_minutes > 0:
            raise ValueError(f"lease_minutes is {self.lease_minutes}; it must be more than 0")
        if self.raters + self.crowd < 1:
            raise ValueError("raters and crowd are both 0; somebody must rate")

    @property
    def asked(self) -> str:
        """The question, in words."""
        return self.wording or QUESTIONS[self.question]

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be answered, from the left answer (A) to the right one (B)."""
        return CHOICES[self.question]
