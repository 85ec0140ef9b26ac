from __future__ import annotations

from click.testing import CliRunner

from peergram.cli.sim import sim


def test_the_command_lists_features_and_defects() -> None:
    result = CliRunner().invoke(sim, ["--list"])
    assert result.exit_code == 0
    assert "partition" in result.output
    assert "swap two" in result.output


def test_the_command_finds_a_planted_defect_and_says_how_to_replay_it() -> None:
    result = CliRunner().invoke(sim, ["--seeds", "3", "--jobs", "1", "--plant", "oversize packet", "--no-shrink"])
    assert result.exit_code == 1
    assert "V18" in result.output
    assert "peergram sim --seeds 1 --from" in result.output


def test_the_command_prints_a_trace_on_request() -> None:
    result = CliRunner().invoke(sim, ["--seeds", "1", "--from", "3", "--trace"])
    assert "phase calm" in result.output
    assert "1 seeds" in result.output


def test_the_command_runs_worlds_of_peers_who_know_names_only() -> None:
    result = CliRunner().invoke(sim, ["--p2p", "--seeds", "2", "--from", "3", "--jobs", "1"])
    assert result.exit_code == 0
    assert "2 seeds" in result.output
    assert "no promise was broken" in result.output


def test_peers_by_name_have_no_planted_defects() -> None:
    result = CliRunner().invoke(sim, ["--p2p", "--plant", "oversize packet"])
    assert result.exit_code == 2
    assert "--p2p" in result.output
