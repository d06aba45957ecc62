"""Random arrivals, cancellations and lengths: every answer equals the one that its request gets alone."""
import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from serve_helpers import CONFIG, run_jobs, settle

from easylm_imitation.serve import Engine
from easylm_imitation.serve.answer import AnswerText
from easylm_imitation.serve.grammar import Grammars, Spec
from easylm_imitation.serve.jobs import Answer, Sampling, Scoring
from easylm_imitation.serve.scheduler import Scheduler
from easylm_imitation.serve.scoring import Scorer, pair_segments

# Few different prompts, many of which begin alike: slots and kept beginnings are reused all the time.
STEMS = [tuple(range(5, 5 + n)) for n in (1, 17, 40)]
PROMPTS = st.builds(lambda stem, tail: (*stem, *tail), st.sampled_from(STEMS),
                    st.lists(st.integers(100, 103), max_size=12).map(tuple))
SAMPLINGS = st.sampled_from([Sampling(), Sampling(temperature=1.0, seed=1), Sampling(temperature=0.7, top_k=5, seed=2)])
GRAMMARS = st.sampled_from([None, None, None, "[a-f]{3,20}", "(sky|sea)+"])


@pytest.fixture(scope="module", params=["", pytest.param("data:2,tensor:2", marks=pytest.mark.slow)])
def machine(request, server, served_model):
    """A state machine over a scheduler whose turns the test takes; on one device its programs are the server's."""
    def engine(config):
        return Engine(served_model.config, served_model.params, config, stop_ids=[1], vocab_size=290)
    mesh = dataclasses.replace(CONFIG, mesh=request.param, decode_rows=())
    together, alone = engine(mesh if request.param else CONFIG), engine(CONFIG)

    grammars = Grammars(served_model.tokenizer, 296, [1], 1000)
    forms = {regex: grammars.compile(Spec("regex", regex, "x")) for regex in ("[a-f]{3,20}", "(sky|sea)+")}

    def answer(prompt, count, sampling, regex, notify, stream):
        return Answer(prompt, count, sampling, AnswerText(served_model.tokenizer), notify, stop_ids=frozenset([1]),
                      stream=stream, constraint=None if regex is None else forms[regex].copy())

    @functools.cache
    def oracle(prompt, count, sampling, regex):
        job = answer(prompt, count, sampling, regex, lambda news: None, False)
        run_jobs(alone, [job])
        return job.made, job.finish

    @functools.cache
    def score_alone(pair):
        return Scorer(alone).score([pair])[0].token_logprobs

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.scheduler = Scheduler(together, 512)
            self.answers, self.scorings, self.given_up = [], [], []

        @rule(prompt=PROMPTS, count=st.integers(1, 30), sampling=SAMPLINGS, regex=GRAMMARS,
              stream=st.booleans())
        def ask(self, prompt, count, sampling, regex, stream):
            job = answer(prompt, count, sampling, regex, lambda news: None, stream)
            self.scheduler.submit([job])
            self.answers.append((job, (prompt, count, sampling, regex)))

        @rule(prompts=st.lists(PROMPTS, min_size=1, max_size=6), letter=st.integers(3, 6))
        def score(self, prompts, letter):
            pairs = [(prompt, (letter, 9)) for prompt in prompts]
            found = [None] * len(pairs)
            job = Scoring(pair_segments(pairs, CONFIG.context, 296, found), lambda news: None)
            self.scheduler.submit([job])
            self.scorings.append((job, pairs, found))

        @precondition(lambda self: self.answers or self.scorings)
        @rule(data=st.data())
        def give_up(self, data):
            entries = [*self.answers, *self.scorings]
            entry = data.draw(st.sampled_from(entries))
            self.scheduler.cancel([entry[0]])
            self.given_up.append(entry[0])

        @rule(turns=st.integers(1, 4))
        def work(self, turns):
            for _ in range(turns):
                settle(self.scheduler)

        @invariant()
        def slots_add_up(self):
            slots = self.scheduler._slots
            assert slots.busy + slots.free == CONFIG.slots

        def teardown(self):
            for _ in range(2000):
                if not self.scheduler.queue_depth:
                    break
                settle(self.scheduler)
            assert self.scheduler.queue_depth == self.scheduler.slots_busy == 0
            assert not self.scheduler._pool
            for job, asked in self.answers:
                if job not in self.given_up:
                    assert (job.made, job.finish) == oracle(*asked)
            for job, pairs, found in self.scorings:
                for pair, score in zip(pairs, found) if job not in self.given_up else ():
                    np.testing.assert_allclose(score.token_logprobs, score_alone(pair), atol=1e-4)

    return Machine


@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_any_order_of_requests_gives_each_what_it_gets_alone(machine, examples):
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=25, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck)))
