"""A worker's side: what it records goes into Locust's own report to the master, which sends it to New Relic.

A worker needs no settings: what it has to know of a run comes from the master, in one option that Locust forwards.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent

from . import relay
from .faults import log_unexpected, safe
from .health import Gauge
from .histogram import Scale
from .pauses import in_steps
from .recording import Cadence, make_recorder, now_ms
from .relay import Part, Report, RunOptions
from .reporter import Reporter
from .window import Window

if TYPE_CHECKING:
    from locust.env import Environment

    from .recorder import Recorder


logger = logging.getLogger(__name__)

MOST_PARTS = 1_000
"""Windows that wait to be reported: some thousand seconds of a worker whose reports do not go out."""


@dataclass
class _Recording:
    """What is recorded for a run, as long as it lasts."""

    run: RunOptions
    recorder: Recorder
    cadence: Cadence


class Worker(Reporter):
    """Records a worker's part of the runs of which the master has told it.

    Without word from a master that reports to New Relic it does nothing, and costs a request nothing.
    """

    is_on = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._recording: _Recording | None = None
        self._parts: deque[Part] = deque(maxlen=MOST_PARTS)
        """Of windows that have ended, or were reset, since the last report."""
        self._is_partial = False
        """Whether Locust's next report tells of requests that were made before the recording began."""
        self._gauge: Gauge | None = None
        self._greenlet: gevent.Greenlet | None = None
        events = environment.events
        self._listen_first(events.test_start, safe(self._on_test_start))
        self._listen_beside_locust(events.report_to_master, safe(self._on_report_to_master), "locust.stats")
        self._listen(events.quit, safe(self._on_quit))
        self._listen(events.user_error, safe(self._on_user_error))
        self._watch_resets(self._on_reset)
        self._own.on_worker()
        self._shield_from_interrupts()
        safe(self._on_test_start)()  # word of a run may have come before us

    def close(self) -> None:
        """Stop recording; what is not reported yet, the master takes from Locust's own statistics."""
        self._on_quit()
        super().close()

    # -- what Locust tells us ----------------------------------------------------------------------------------------

    def _on_test_start(self, **_: object) -> None:
        run = self._forwarded()
        if run is not None:
            self._end_window()
            self._begin(run)

    def _on_report_to_master(self, data: dict[str, Any], **_: object) -> None:
        """Report what was recorded since the last report.

        A run of which only its option tells begins here: the worker missed the stop of the one before, or the reporter
        of the master came later than the test.
        """
        run = self._forwarded()
        if self._recording is not None:
            self._end_window()
            parts = list(self._parts)
            self._parts.clear()
            if self._is_partial:  # for this once, the master takes requests from Locust's own statistics: all of them
                parts = [part._replace(window=Window(details=part.window.details.without_failures())) for part in parts]
            data[relay.KEY] = relay.pack(Report(now_ms(), parts, self._is_partial))
            self._is_partial = False
        if run is not None and (self._recording is None or self._recording.run != run):
            self._begin(run)

    def _on_user_error(self, user_instance: object, exception: BaseException, tb: Any, **_: object) -> None:
        if self._recording is not None:
            self._note_exception(self._recording.recorder, user_instance, exception, tb)

    def _on_reset(self) -> None:
        """What was not reported is gone for Locust, but not for us."""
        self._end_window()
        self._is_partial = False
        self._parts = deque((part._replace(was_reset=True) for part in self._parts), maxlen=MOST_PARTS)

    def _on_quit(self, **_: object) -> None:
        """Locust has sent its last report. Our listeners stay: older Locusts skip others if one goes meanwhile."""
        self._closing.set()
        self._end_window()
        num_late = sum(len(part.window.details.records.events) for part in self._parts)
        if num_late:
            logger.warning("New Relic: %d events were recorded after the last report to the master: lost", num_late)
        self._parts.clear()
        if self._recording is not None:
            self._recording = None
            self._own.end()
        self._wake.set()
        if self._gauge is not None:
            self._gauge.close()

    # -- windows -----------------------------------------------------------------------------------------------------

    def _forwarded(self) -> RunOptions | None:
        if self._closing.is_set():
            return None
        return RunOptions.read(getattr(self.environment.parsed_options, relay.RUN_OPTION, None))

    def _begin(self, run: RunOptions) -> None:
        """Record for *run* from now on."""
        if self._greenlet is None:
            self._gauge = Gauge()
        for listener in self._recording.recorder.listeners if self._recording is not None else ():
            self._unlisten(self.environment.events.request, listener)
        scale = Scale(run.buckets_ms)
        recorder = make_recorder(scale, run.max_series, dimensions=run.dimensions, sample_rate=run.sample_rate)
        self._recording = _Recording(run, recorder, Cadence(run.interval_s))
        self._listen_to_requests(recorder)
        self._is_partial = self.environment.stats.total.num_requests > 0
        self._own.hand_over(recorder.record_event, recorder.refuse_events)
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._loop)

    def _end_window(self) -> None:
        """Close the open window; it waits for the next report."""
        recording, gauge = self._recording, self._gauge
        if recording is None or gauge is None:
            return

        run, cadence = recording.run, recording.cadence
        window, health = recording.recorder.take(), gauge.take(self._user_count())
        self._parts.append(
            Part(run.run_id, cadence.start_ms, run.buckets_ms, window, health, dimensions=run.dimensions)
        )
        cadence.restart()
        self._wake.set()

    # -- the greenlet ------------------------------------------------------------------------------------------------

    def _greenlets(self) -> list[gevent.Greenlet]:
        return [self._greenlet, self._gauge.greenlet] if self._greenlet is not None and self._gauge is not None else []

    def _loop(self) -> None:
        while self._recording is not None:
            self._wake.wait(self._recording.cadence.pause_s)
            self._wake.clear()
            try:
                if self._recording is not None and self._recording.cadence.is_over:
                    self._end_window()
                for part in list(self._parts):  # all of this so that there is less to do when the report is due
                    in_steps(part.window.count())
                if self._recording is not None:
                    in_steps(self._recording.recorder.count_aside())
            except Exception as error:
                log_unexpected(error)
