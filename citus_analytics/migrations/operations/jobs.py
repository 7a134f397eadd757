"""Operations that let the server run a command again and again, by the extension pg_cron.

Definition: pg_cron's documentation, `cron.schedule` and `cron.unschedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from alembic.operations import Operations

from citus_analytics.errors import OperationError
from citus_analytics.migrations.operations.base import Arguments, CitusOperation, Extension, Guarded
from citus_analytics.sql import literal

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step

# The first in which scheduling a name again replaces its job.
_PG_CRON: Final = Extension("pg_cron", (1, 4))


@dataclass(frozen=True, slots=True)
class Job:
    """What runs, and when.

    Attributes:
        schedule: When, in the words of cron, in pg_cron's time zone: `*/5 * * * *`.
        command: What, one SQL command or several.
    """

    schedule: str
    command: str


@Operations.register_operation("schedule")
@dataclass(frozen=True, slots=True)
class ScheduleOp(CitusOperation):
    """Let the server run a command again and again."""

    function: ClassVar = "schedule"

    name: str
    schedule_: str
    command: str

    @classmethod
    def schedule(cls, operations: Operations, name: str, schedule: str, command: str) -> None:
        """Let the server run a command again and again, as the user who migrates.

        A job of this name and user is replaced.

        Args:
            operations: Filled in by Alembic.
            name: The name of the job.
            schedule: When, in the words of cron, in pg_cron's time zone: `*/5 * * * *`.
            command: What, one SQL command or several.

        Raises:
            OperationError: The policy is `require` and pg_cron is not installed.
        """
        operations.invoke(cls(name, schedule, command))

    @property
    def subject(self) -> str:
        """The job."""
        return self.name

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.name, self.schedule_, self.command), {})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        arguments = ", ".join(map(literal, (self.name, self.schedule_, self.command)))
        step = Guarded(
            call=self.function,
            body=f"PERFORM cron.schedule({arguments});",
            otherwise=f"job {self.name} is not scheduled",
            needs=(_PG_CRON,),
        )
        return (step,)

    def reverse(self) -> UnscheduleOp:
        """Return the operation that ends the job."""
        return UnscheduleOp(self.name, Job(self.schedule_, self.command))


@Operations.register_operation("unschedule")
@dataclass(frozen=True, slots=True)
class UnscheduleOp(CitusOperation):
    """Let the server run a command no longer."""

    function: ClassVar = "unschedule"

    name: str
    was: Job | None = None

    @classmethod
    def unschedule(cls, operations: Operations, name: str, *, was: Job | None = None) -> None:
        """Let the server run a command no longer. A job that is not there is left alone.

        Args:
            operations: Filled in by Alembic.
            name: The name of a job of the user who migrates.
            was: The job; without it the operation cannot be reversed.

        Raises:
            OperationError: The policy is `require` and pg_cron is not installed.
        """
        operations.invoke(cls(name, was))

    @property
    def subject(self) -> str:
        """The job."""
        return self.name

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.name,), {"was": self.was})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        step = Guarded(
            call=self.function,
            body="PERFORM cron.unschedule(j.jobid) FROM cron.job AS j\n"
            f"WHERE j.jobname = {literal(self.name)} AND j.username = current_user;",
            otherwise=f"job {self.name} is not scheduled as it is",
            needs=(_PG_CRON,),
        )
        return (step,)

    def reverse(self) -> ScheduleOp:
        """Return the operation that schedules the job again.

        Raises:
            OperationError: The operation was not told what it was.
        """
        if self.was is None:
            raise OperationError(
                f"unschedule({self.name!r}) cannot be reversed: it does not say what the job was. "
                "Give it was=Job(schedule, command)."
            )
        return ScheduleOp(self.name, self.was.schedule, self.was.command)
