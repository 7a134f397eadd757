# %% [markdown]
# # Ten questions about GitHub's events
#
# Each cell asks the library, makes a DataFrame of the answer, and plots it. Nothing here waits for
# a run of the rollups: every answer equals the raw events at this moment, and the last question
# checks that.
#
# The database is `DATABASE_URL`. If it has no events, made-up ones are loaded. Plots are saved in
# the folder `plots`, or in `PLOTS`. Editors that know cells (`# %%`) run this as a notebook; as a
# script it is `python -m examples.notebook.github_events`.

# %%
"""Ten questions about GitHub's events, answered with DataFrames and plots."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import matplotlib.pyplot as plt
import polars as pl
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from citus_analytics import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    GithubEvent,
    Question,
    active_users,
    ask,
    commits_per_hour,
    count,
    count_events,
    events_by_type,
    heat_map,
    push_sizes,
    run_rollup,
    top_contributors,
    top_repository_creators,
    trending_repositories,
)
from citus_analytics.frames import to_polars
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url

URL = database_url(os.environ["DATABASE_URL"])
ZONE = "Europe/Berlin"
PLOTS = Path(os.environ.get("PLOTS", "plots"))
PLOTS.mkdir(exist_ok=True, parents=True)

upgrade(URL)
engine = create_engine(URL)
session = Session(engine)
if not count_events(session):
    monday = datetime(2026, 3, 2, tzinfo=ZoneInfo(ZONE))
    sample = Sample(
        events=20_000,
        users=400,
        repositories=600,
        since=monday,
        until=monday + timedelta(days=14),
    )
    load_events(session, sample.events_csv())
    load_users(session, sample.users_csv())
    session.commit()
    run_rollup(session, GITHUB_ROLLUP_1MIN)
    run_rollup(session, GITHUB_LOGINS)
    session.commit()


def save(name: str, title: str) -> None:
    """Save the current plot."""
    plt.title(title)
    plt.tight_layout()
    plt.savefig(PLOTS / f"{name}.png", dpi=120)
    plt.close()


# %% [markdown]
# ## 1. What happens, and how much of it?
#
# Days of a time zone; the frame has a row for each day and type, which a pivot makes columns of. A
# time is always in UTC: what the clocks of the zone show is a matter of display.

# %%
local_day = pl.col("bucket").dt.convert_time_zone(ZONE).dt.date()
days = to_polars(events_by_type(session, every=f"1 day at {ZONE}")).with_columns(local_day)
types = days.group_by("event_type").agg(pl.col("events").sum()).sort("events", descending=True)
print(types)

wide = days.pivot("event_type", index="bucket", values="events").sort("bucket").fill_null(0)
shown = types["event_type"].to_list()[:6]
plt.figure(figsize=(9, 4))
plt.stackplot(wide["bucket"], [wide[name] for name in shown], labels=shown)
plt.legend(loc="upper left", fontsize="small")
plt.xticks(rotation=30)
save("1_events_by_type", "Events a day")

# %% [markdown]
# ## 2. When are people at work?

# %%
cells = to_polars(heat_map(session, time_zone=ZONE))
grid = [[0] * 24 for _ in range(7)]
for weekday, hour, events in cells.rows():
    grid[weekday][hour] = events
plt.figure(figsize=(9, 3))
plt.imshow(grid, aspect="auto", cmap="viridis")
plt.yticks(range(7), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
plt.xlabel(f"hour in {ZONE}")
plt.colorbar(label="events")
save("2_heat_map", "When people are at work")

# %% [markdown]
# ## 3. Is the weekend quieter?
#
# From the same frame: what a question has answered is an ordinary DataFrame.

# %%
weekend = cells.group_by((pl.col("weekday") >= 5).alias("weekend")).agg(pl.col("events").sum())
mean = {is_weekend: events / (2 if is_weekend else 5) for is_weekend, events in weekend.rows()}
print(f"a day of the weekend has {mean.get(True, 0) / mean[False]:.0%} of the events of a workday")

# %% [markdown]
# ## 4. How many people are active?
#
# Distinct users do not add up: those of a week are a question of their own, which is as exact.

# %%
daily = to_polars(active_users(session, every=f"1 day at {ZONE}")).with_columns(local_day)
weekly = to_polars(active_users(session, every=f"1 week at {ZONE}")).with_columns(local_day)
plt.figure(figsize=(9, 3))
plt.bar(daily["bucket"], daily["users"], align="edge")
plt.bar(weekly["bucket"], weekly["users"], 7, align="edge", color="none", edgecolor="black")
plt.xticks(rotation=30)
save("4_active_users", "People who did something, in a day and in a week")

# %% [markdown]
# ## 5. What is trending?
#
# Stars by repository; their names are in the events, and a statement of SQLAlchemy becomes a frame
# like an answer does.

# %%
stars = to_polars(trending_repositories(session, event_type="WatchEvent", limit=10))
name = GithubEvent.repo["name"].astext.label("name")
names = to_polars(
    session.execute(
        select(GithubEvent.repo_id, name)
        .where(GithubEvent.repo_id.in_(stars["repo_id"].to_list()))
        .distinct()
    )
)
stars = stars.join(names, on="repo_id", how="left", maintain_order="left")
print(stars)
plt.figure(figsize=(9, 3))
plt.barh(stars["name"], stars["events"])
plt.gca().invert_yaxis()
save("5_trending", "New stars")

# %% [markdown]
# ## 6. Who works on the most starred repository?

# %%
repo_id, repository = stars["repo_id"][0], stars["name"][0]
people = to_polars(top_contributors(session, repo_id, limit=5))
print(f"{repository}: " + ", ".join(f"user {user}: {events}" for user, events in people.rows()))

# %% [markdown]
# ## 7. How many commits are pushed?
#
# An hour whose pushes do not say how many commits they had is a gap, not a zero.

# %%
commits = to_polars(commits_per_hour(session, time_zone=ZONE))
smooth = commits.with_columns(pl.col("commits").rolling_mean_by("hour", window_size="24h"))
plt.figure(figsize=(9, 3))
plt.plot(commits["hour"], commits["commits"], linewidth=0.5, label="an hour")
plt.plot(smooth["hour"], smooth["commits"], label="the day before, on average")
plt.xticks(rotation=30)
plt.legend()
save("7_commits", "Commits")

# %% [markdown]
# ## 8. How large is a push, and who creates repositories?

# %%
sizes = push_sizes(session)
print(f"half of {sizes.pushes:,} pushes have up to {sizes.p50} commits, 95 % up to {sizes.p95}")
print(to_polars(top_repository_creators(session, limit=5)))

# %% [markdown]
# ## 9. Do few people do most of it?
#
# None of the analytics answers that, but `ask` answers any question that can be asked of a source.
# Its plan says what was read.

# %%
answer = ask(session, GithubEvent, measures={"events": count()}, by=[GithubEvent.user_id])
by_user = to_polars(answer).sort("events", descending=True)
shares = by_user.select(pl.col("events").cum_sum() / pl.col("events").sum())["events"].to_list()
print(f"a tenth of the people has {shares[len(shares) // 10 - 1]:.0%} of the events")
print("read from:", ", ".join(step.table for step in answer.plan.steps))
plt.figure(figsize=(5, 4))
plt.plot(shares)
plt.xlabel("people, the busiest first")
plt.ylabel("share of the events")
save("9_concentration", "Who does most of it")

# %% [markdown]
# ## 10. Is all of that right?
#
# The same question, from rollups and from the raw events: the frames are equal, digit for digit.

# %%
by_day = Question(
    GithubEvent,
    measures={"events": count()},
    by=[GithubEvent.event_type],
    every=f"1 day at {ZONE}",
)
fresh, raw = by_day.ask(session), by_day.ask(session, freshness="raw")
for found in (fresh, raw):
    print(f"{found.plan.freshness}, from", ", ".join(step.table for step in found.plan.steps))
assert to_polars(fresh).equals(to_polars(raw)), "a rollup does not add up"  # noqa: S101

# %%
session.close()
engine.dispose()
print(f"the plots are in {PLOTS.resolve()}")
