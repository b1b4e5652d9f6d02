"""The demand: what was asked for is learned, kept for a while and forgotten; what was announced counts."""

import heapq
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasedb_server.domain.demand import HALF_LIFE, HINTS, IDLE, TEMPLATES, Demand, Forecast

NOW = 1000.0
REFILL = 100.0  # clones per second


def burst(demand, number, now=NOW, template="base", every=0.0):
    for index in range(number):
        demand.asked(template, "", now + index * every)
    return now + number * every


class Suite:
    """Tests one after another in each worker, on one server whose pool does what the planner says: a closed loop."""

    def __init__(self, demand, *, workers, tests, seconds, refill=REFILL, seed=0):
        self.demand, self.workers, self.tests, self.seconds, self.refill = demand, workers, tests, seconds, refill
        self.seed = seed
        self.waited = 0

    def run(self, now):
        """Return when the last test ended. ``waited`` tells how many had to wait for their database."""
        stock = float(self.demand.wanted("base", now))
        self.waited, line, begun = 0, [], 0
        random = Random(self.seed)  # the same tests take as long as the last time
        events = [(now + 0.001 * worker, worker) for worker in range(self.workers)]
        heapq.heapify(events)
        at = now
        while events or line:
            wanted = self.demand.wanted("base", at)
            due = events[0][0] if events else float("inf")
            # clones arrive while somebody waits or the stock is low
            if line or stock < (wanted + 1) // 2:
                ready = at + (1 - stock % 1) / self.refill
                if ready <= due:
                    at, stock = ready, int(stock) + 1.0
                    if line:
                        stock -= 1
                        worker = line.pop(0)
                        self.demand.left("base", at)
                        heapq.heappush(events, (at + random.expovariate(1 / self.seconds), worker))
                    continue
                stock += (due - at) * self.refill
            at, worker = heapq.heappop(events)
            if begun == self.tests:
                continue
            begun += 1
            self.demand.asked("base", "", at)
            if stock >= 1 and not line:
                stock -= 1
                heapq.heappush(events, (at + random.expovariate(1 / self.seconds), worker))
            else:
                self.waited += 1
                line.append(worker)
                self.demand.joined("base", at)
        return at


@pytest.fixture
def demand():
    demand = Demand(floor=10, ceiling=1000)
    demand.refills(REFILL)
    demand.known("base", NOW)
    return demand


class TestLearned:
    def test_a_template_that_is_known_has_the_floor(self, demand):
        assert demand.wanted("base", NOW) == 10
        assert demand.wanted("unknown", NOW) == 0

    def test_a_burst_wants_its_size_and_a_little_more(self, demand):
        burst(demand, 40)
        assert 40 < demand.wanted("base", NOW) <= 50

    def test_what_is_refilled_in_time_wants_no_more(self, demand):
        """Slower than the refill, however many in the end."""
        end = burst(demand, 5000, every=0.02)
        assert demand.wanted("base", end) <= 13

    def test_what_comes_faster_than_the_refill_wants_the_difference(self, demand):
        end = burst(demand, 400, every=1 / 400)
        assert 300 < demand.wanted("base", end) < 450

    def test_a_peak_fades(self, demand):
        burst(demand, 80)
        wanted = [demand.wanted("base", NOW + seconds) for seconds in (0, HALF_LIFE, 2 * HALF_LIFE, 5 * HALF_LIFE)]
        assert wanted == [90, 45, 23, 10]

    def test_nobody_asking_any_more_leaves_nothing(self, demand):
        burst(demand, 80)
        assert demand.wanted("base", NOW + IDLE - 1) == 10
        assert demand.wanted("base", NOW + IDLE) == 0
        demand.asked("base", "", NOW + IDLE + 1)
        assert demand.wanted("base", NOW + IDLE + 1) == 10

    def test_never_asked_for_counts_from_when_it_became_known(self, demand):
        demand.known("base", NOW + 100)
        assert demand.wanted("base", NOW + IDLE) == 0

    def test_the_ceiling_holds(self):
        demand = Demand(floor=0, ceiling=20)
        burst(demand, 500)
        assert demand.wanted("base", NOW) == 20
        assert demand.forecast("base", NOW).peak == 20

    def test_without_a_floor_one_request_an_hour_wants_little(self):
        demand = Demand(floor=0)
        demand.refills(REFILL)
        demand.asked("base", "", NOW)
        assert demand.wanted("base", NOW) == 3
        assert demand.wanted("base", NOW + 10) == 0

    def test_templates_share_the_refill(self, demand):
        """Two that are asked for as fast as can be made need a stock each, one alone needs none."""
        for number in range(2000):
            for template in ("base", "shop"):
                demand.asked(template, "", NOW + number / REFILL)
        both = [demand.wanted(template, NOW + 20) for template in ("base", "shop")]
        assert min(both) > 500
        alone = Demand()
        alone.refills(REFILL)
        burst(alone, 2000, every=1 / REFILL)
        assert alone.wanted("base", NOW + 20) < 50

    def test_a_forecast_tells_what_is_known(self, demand):
        end = burst(demand, 100, every=0.01)
        told = demand.forecast("base", end)
        assert told.target == demand.wanted("base", end)
        assert told.rate == pytest.approx(100, rel=0.1)
        assert told.last_asked == pytest.approx(end - 0.01)
        assert told.hinted == 0
        assert 1 <= told.peak <= 12
        assert demand.forecast("unknown", NOW) == Forecast(0, 0.0, 0.0, 0, None)
        assert repr(demand) == "Demand(base)"

    def test_a_clock_that_is_set_back_does_no_harm(self, demand):
        burst(demand, 30)
        burst(demand, 30, NOW - 500)
        assert 60 < demand.wanted("base", NOW - 500) < 80


class TestSuites:
    @pytest.mark.parametrize(("workers", "seconds"), [(8, 0.005), (8, 0.05), (16, 0.02), (32, 0.3), (4, 0.1)])
    @pytest.mark.parametrize("seed", range(5))
    def test_a_suite_of_a_hundred_tests_learns_a_stock_that_suffices_the_next_time(
        self, demand, workers, seconds, seed
    ):
        suite = Suite(demand, workers=workers, tests=100, seconds=seconds, seed=seed)
        end = suite.run(NOW)
        first = suite.waited
        suite.run(end + 20)
        assert suite.waited <= 3
        assert first > 0 or workers == 4 or workers / seconds < 1.5 * REFILL

    def test_it_learns_no_more_than_all_its_tests(self, demand):
        suite = Suite(demand, workers=8, tests=100, seconds=0.005)
        end = suite.run(NOW)
        assert 90 <= demand.wanted("base", end) <= 100 + 100 / 8 + 1

    def test_a_suite_slower_than_the_refill_keeps_the_floor(self, demand):
        end = Suite(demand, workers=8, tests=300, seconds=0.2).run(NOW)
        assert demand.wanted("base", end) <= 20

    @given(
        workers=st.integers(1, 32),
        seconds=st.floats(0.005, 0.5),
        refill=st.floats(20, 400),
        tests=st.integers(1, 300),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=40, deadline=None)
    def test_whatever_the_suite_the_third_time_hardly_anybody_waits(self, workers, seconds, refill, tests, seed):
        demand = Demand()
        demand.refills(refill)
        demand.known("base", NOW)
        suite, now = Suite(demand, workers=workers, tests=tests, seconds=seconds, refill=refill, seed=seed), NOW
        for _ in range(3):
            now = suite.run(now) + 20
        assert suite.waited <= max(5, tests * 0.1)


class TestHints:
    def test_what_is_announced_is_wanted(self, demand):
        demand.hint("base", 50, "ci", NOW + 60, NOW)
        demand.hint("base", 25, "me", NOW + 60, NOW)
        assert demand.wanted("base", NOW) == 75
        assert demand.forecast("base", NOW).hinted == 75

    def test_each_request_of_the_holder_counts_one_down(self, demand):
        demand.hint("base", 50, "ci", NOW + 60, NOW)
        for _ in range(3):
            demand.asked("base", "ci", NOW)
            demand.asked("base", "somebody else", NOW)
            demand.asked("shop", "ci", NOW)
        assert demand.forecast("base", NOW).hinted == 47
        for _ in range(60):
            demand.asked("base", "ci", NOW)
        assert demand.forecast("base", NOW).hinted == 0

    def test_a_new_one_replaces_the_old_and_none_cancels(self, demand):
        demand.hint("base", 50, "ci", NOW + 60, NOW)
        demand.hint("base", 20, "ci", NOW + 60, NOW)
        assert demand.wanted("base", NOW) == 20
        demand.hint("base", 0, "ci", NOW + 60, NOW)
        assert demand.forecast("base", NOW).hinted == 0

    def test_it_ends_in_time(self, demand):
        demand.hint("base", 50, "ci", NOW + 60, NOW)
        assert demand.wanted("base", NOW + 59.9) == 50
        assert demand.wanted("base", NOW + 60) == 10
        demand.hint("base", 50, "ci", NOW - 1, NOW)
        assert demand.forecast("base", NOW).hinted == 0

    def test_the_ceiling_holds(self, demand):
        demand.hint("base", 5000, "ci", NOW + 60, NOW)
        assert demand.wanted("base", NOW) == 1000

    def test_it_counts_for_a_template_that_is_not_there_yet_and_for_one_not_in_use(self, demand):
        demand.hint("later", 5, "ci", NOW + 60, NOW)
        assert demand.wanted("later", NOW) == 10
        demand.hint("base", 5, "ci", NOW + IDLE + 60, NOW)
        assert demand.wanted("base", NOW + IDLE + 1) == 5


class TestMemory:
    def test_what_is_idle_and_gone_is_forgotten(self, demand):
        demand.hint("hinted", 5, "ci", NOW + 9999, NOW)
        demand.asked("asked", "", NOW)
        demand.joined("waited for", NOW)
        demand.forget({"base"}, NOW + IDLE)
        assert set(demand._records) == {"base", "hinted", "waited for"}
        demand.known("base", NOW + IDLE)
        assert demand.wanted("base", NOW + IDLE) == 0, "what is still there does not become known anew"

    def test_hints_have_a_limit_and_the_one_that_ends_first_goes(self, demand):
        for number in range(HINTS + 1):
            demand.hint("base", 1, f"holder {number}", NOW + 60 + (number + 5) % 10, NOW)
        assert demand.forecast("base", NOW).hinted == HINTS == demand._hints

    def test_templates_have_a_limit_and_the_one_asked_for_longest_ago_goes(self, demand):
        demand.hint("base", 1, "ci", NOW + 60, NOW)
        for number in range(TEMPLATES):
            demand.asked(f"t{number}", "", NOW)
        assert len(demand._records) == TEMPLATES
        assert "base" not in demand._records
        assert demand._hints == 0

    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_the_number_of_hints_is_right_whatever_happens(self, data):
        demand, now = Demand(), NOW
        holders, templates = st.sampled_from("xyz"), st.sampled_from(["base", "shop"])
        for _ in range(data.draw(st.integers(0, 40))):
            now += data.draw(st.sampled_from([0.0, 0.05, 40.0, IDLE]))
            match data.draw(st.sampled_from(["hint", "ask", "join", "leave", "forget"])):
                case "hint":
                    count = data.draw(st.integers(0, 3))
                    demand.hint(data.draw(templates), count, data.draw(holders), now + 60, now)
                case "ask":
                    demand.asked(data.draw(templates), data.draw(holders), now)
                case "join":
                    demand.joined(data.draw(templates), now)
                case "leave":
                    demand.left(data.draw(templates), now)
                case "forget":
                    demand.forget({"base"}, now)
            assert demand._hints == sum(len(record.hints) for record in demand._records.values())
            for template in ("base", "shop"):
                told = demand.forecast(template, now)
                assert told.hinted <= told.target <= 1000
