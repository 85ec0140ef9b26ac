"""Every limit has a test that reaches it: which one, as a table that is held complete; and the ranges of what a user may set."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from peergram import config
from peergram.config import Config
from peergram.errors import UsageError

TESTS = Path(__file__).parent

REACHED_BY = {
    "PROTOCOL_VERSION": "connection/test_handshake.py::test_two_round_trips_make_a_session",
    "PROTOCOL_VERSION_MIN": "connection/test_handshake.py::test_an_old_server_is_refused_by_what_it_signs",
    "DATAGRAM_BYTES_MAX": "properties/test_transmitted_packets.py::test_packets_say_what_was_queued_and_nothing_else",
    "DATAGRAM_BYTES_MIN": "wire/test_control.py::test_datagrams_under_five_bytes_are_refused_whatever_they_begin_with",
    "PADDED_BYTES_MIN": "wire/test_control.py::test_padded_packets_keep_the_framing_rules",
    "MESSAGE_BYTES_MAX": "endpoint/test_sending.py::test_too_large_a_message_is_refused_and_makes_no_session",
    "REFERENCE_MESSAGE_BYTES_MAX": "endpoint/test_sending.py::test_the_largest_messages_are_refused_toward_a_reference_peer",
    "STREAM_MESSAGE_BYTES_MAX": (
        "threats/test_fragments.py::test_a_reliable_message_that_claims_too_much_ends_the_connection_before_it_costs_anything"
    ),
    "UNRELIABLE_SEND_BYTES_MAX": "endpoint/test_sending.py::test_a_large_unreliable_message_becomes_reliable",
    "UNRELIABLE_RECV_BYTES_MAX": "threats/test_fragments.py::test_a_message_is_never_larger_than_its_pieces_may_reach",
    "UNRELIABLE_SEGMENT_BYTES_MAX": "connection/test_limits.py::test_an_unreliable_segment_is_no_longer_than_a_packet_can_be",
    "UNRELIABLE_STORE_BYTES_MAX": "connection/test_limits.py::test_the_store_of_unfinished_messages_is_bounded",
    "UNRELIABLE_STORE_SEGMENTS_MAX": "connection/test_limits.py::test_the_store_of_unfinished_messages_is_bounded",
    "UNRELIABLE_STORE_AGE_US": "connection/test_limits.py::test_an_unfinished_message_is_kept_for_so_long",
    "STREAM_SPAN_MAX": "connection/test_limits.py::test_behind_a_hole_only_what_the_peer_has_room_for_is_sent",
    "LANES_SEND_MAX": "sessions/test_channels.py::test_a_channel_keeps_its_lane_and_the_first_eight_share_none",
    "LANES_RECV_MAX": "threats/test_tables.py::test_lanes_and_channels_are_bounded",
    "RELIABLE_GAPS_MAX": "connection/test_limits.py::test_a_stream_has_so_many_holes_and_no_more",
    "ACK_GAPS_MAX": "connection/test_limits.py::test_an_ack_reports_so_many_runs_and_no_more",
    "REPLAY_RANGES_MAX": "connection/test_limits.py::test_a_window_full_of_holes_forgets_its_oldest_run",
    "REPLAY_REACH_PACKETS": "connection/test_limits.py::test_a_late_packet_is_taken_within_reach_and_not_below",
    "PACKET_NUMBER_JUMP_MAX": "threats/test_acknowledgements.py::test_a_leap_beyond_the_limit_ends_the_connection",
    "PACKET_NUMBER_MAX": (
        "connection/test_limits.py::test_a_connection_whose_packet_numbers_are_used_up_ends_before_one_repeats"
    ),
    "SEGMENTS_PER_PACKET_MAX": "connection/test_limits.py::test_as_many_segments_as_fit_a_packet_are_read",
    "MESSAGE_NUMBER_STEP_MAX": "connection/test_lanes.py::test_no_step_of_a_number_is_larger_than_a_reference_peer_takes",
    "MESSAGE_CHARGE_BYTES_MIN": (
        "connection/test_limits.py::test_messages_that_wait_for_a_connection_cost_their_bookkeeping_too"
    ),
    "PACKETS_IN_FLIGHT_MAX": (
        "threats/test_acknowledgements.py::test_a_peer_that_talks_and_never_acknowledges_is_remembered_up_to_a_limit"
    ),
    "PACKETS_UNREPORTED_MAX": "connection/test_limits.py::test_a_peer_that_never_gives_up_on_old_packets_is_ended",
    "LOST_PACKETS_KEPT": "connection/test_limits.py::test_a_late_report_confirms_only_the_packets_that_are_remembered",
    "BURST_PACKETS": "endpoint/test_sending.py::test_small_messages_go_at_once_when_they_fill_a_burst",
    "PACKETS_PER_TRANSMIT_MAX": "connection/test_limits.py::test_no_more_packets_come_at_once_than_one_call_carries",
    "ACK_DELAY_US": "connection/test_limits.py::test_data_is_acknowledged_after_its_delay_or_at_once_when_much_came",
    "ACK_DELAY_OWN_PEER_US": "connection/test_limits.py::test_data_is_acknowledged_after_its_delay_or_at_once_when_much_came",
    "ACK_EVERY_PACKETS": "connection/test_limits.py::test_data_is_acknowledged_after_its_delay_or_at_once_when_much_came",
    "NACK_DELAY_US": "connection/test_received.py::test_a_hole_is_reported_after_its_patience_and_not_before",
    "NACK_DELAY_MAX_US": (
        "connection/test_received.py::test_patience_grows_where_packets_overtake_each_other_and_wears_off_where_they_are_lost"
    ),
    "ANSWER_INTERVAL_MIN_US": (
        "threats/test_forged_endings.py::test_questions_of_every_kind_draw_a_few_answers_a_round_trip_and_hold_no_memory"
    ),
    "ANSWER_INTERVAL_MAX_US": (
        "threats/test_forged_endings.py::test_questions_of_every_kind_draw_a_few_answers_a_round_trip_and_hold_no_memory"
    ),
    "ENDED_SESSIONS_MAX": "threats/test_tables.py::test_peers_that_came_and_went_are_remembered_in_bounded_number",
    "ENDED_CONNECTIONS_UNREAD_MAX": (
        "scenarios/test_misbehaviour.py::test_reconnecting_with_a_message_each_leaves_a_bounded_number_of_connections"
    ),
    "CONTROL_REPLIES_MAX": "threats/test_forged_endings.py::test_each_kind_of_question_waits_in_a_row_of_at_most_16",
    "PACKET_REPORT_AGE_US": (
        "threats/test_acknowledgements.py"
        "::test_a_peer_that_lives_and_does_not_acknowledge_costs_a_send_buffer_and_a_packet_a_second"
    ),
    "BURST_BYTES_MAX": "connection/test_path_mtu.py::test_larger_packets_are_no_reason_to_wait_for_more_small_messages",
    "DATAGRAM_BYTES_FLOOR": "connection/test_path_mtu.py::test_a_session_opens_and_works_on_a_narrow_path",
    "DATAGRAM_BYTES_OWN_PEER_MAX": "crypto/test_seal.py::test_plaintext_longer_than_a_datagram_is_refused",
    "PATH_MTU_PROBES_MAX": "connection/test_path_mtu.py::test_the_search_climbs_as_far_as_probes_arrive_and_then_rests",
    "PATH_MTU_RAISE_US": "connection/test_path_mtu.py::test_the_search_climbs_as_far_as_probes_arrive_and_then_rests",
    "PATH_MTU_RETRY_US": ("connection/test_path_mtu.py::test_packets_that_vanish_for_their_size_bring_it_down_in_two_steps"),
    "PATH_MTU_BLACK_HOLE_LOSSES": (
        "connection/test_path_mtu.py::test_packets_that_vanish_for_their_size_bring_it_down_in_two_steps"
    ),
    "PATH_MTU_BLACK_HOLE_US": "connection/test_path_mtu.py::test_a_burst_lost_on_a_path_that_still_works_changes_nothing",
    "path_mtu_bytes_max": "connection/test_path_mtu.py::test_the_search_never_goes_above_its_ceiling",
    "MESSAGE_HEADROOM_BYTES": "endpoint/test_sending.py::test_the_largest_messages_pass_between_own_peers",
    "CONNECT_OK_INTERVAL_US": (
        "threats/test_forged_endings.py::test_repeated_hellos_of_a_live_connection_are_answered_ten_times_a_second"
    ),
    "CONNECT_RETRY_US": "connection/test_handshake.py::test_a_silent_server_is_asked_every_half_second_for_ten_seconds",
    "BAD_ANSWERS_MAX": "connection/test_handshake.py::test_a_client_ends_with_the_reason_to_tell_the_server",
    "CHALLENGE_TICK_US": "crypto/test_cookie.py::test_a_challenge_is_dead_after_four_ticks_and_stays_dead",
    "CHALLENGE_TICKS_MAX": "crypto/test_cookie.py::test_a_challenge_is_dead_after_four_ticks_and_stays_dead",
    "CLAIM_WAIT_US": "endpoint/test_restart.py::test_an_unproven_close_is_believed_when_a_reference_peer_is_silent",
    "CLAIM_WAIT_OWN_PEER_US": "endpoint/test_restart.py::test_an_unproven_close_is_believed_when_an_own_peer_is_silent",
    "PIECE_CHARGE_BYTES": "connection/test_limits.py::test_a_piece_by_itself_costs_its_bookkeeping_too",
    "KEEPALIVE_US": "connection/test_liveness.py::test_a_silent_peer_is_asked_for_a_sign_of_life_and_not_before",
    "KEEPALIVE_DIALER_US": "endpoint/test_many_sessions.py::test_one_side_asks_all_idle_sessions_of_a_moment_in_one_go",
    "KEEPALIVE_SLOT_US": "connection/test_liveness.py::test_questions_to_silent_peers_wait_for_one_another",
    "URGENT_PING_US": ("connection/test_liveness.py::test_urgent_pings_go_out_five_times_a_second_while_an_answer_is_missing"),
    "REPLY_TIMEOUT_MAX_US": "connection/test_liveness.py::test_an_answer_is_missing_after_two_pings_and_a_margin",
    "REPLY_TIMEOUT_MARGIN_US": "connection/test_liveness.py::test_an_answer_is_missing_after_two_pings_and_a_margin",
    "REPLY_TIMEOUT_DELAYED_US": "connection/test_liveness.py::test_an_answer_is_missing_after_two_pings_and_a_margin",
    "REPLY_FAILURES_MIN": ("connection/test_liveness.py::test_silence_alone_ends_nothing_until_enough_questions_went_unanswered"),
    "FIN_WAIT_US": "connection/test_limits.py::test_an_ended_connection_answers_for_five_seconds",
    "NO_CONNECTION_INTERVAL_US": "threats/test_forged_endings.py::test_no_connection_is_said_four_times_a_second_in_all",
    "REDIAL_QUIET_US": ("endpoint/test_restart.py::test_a_dial_to_a_reference_peer_uses_the_old_port_after_the_quiet_time"),
    "STRANGER_REPLIES_MAX": (
        "threats/test_forged_endings.py::test_strangers_questions_wait_in_a_row_of_at_most_64_and_the_newest_win"
    ),
    "CLOSE_DEBUG_BYTES_MAX": "connection/test_limits.py::test_a_close_says_no_more_than_its_limit",
    "CLOSE_REPLIES_MAX": ("threats/test_forged_endings.py::test_an_ended_connection_answers_a_limited_number_of_stragglers"),
    "RTO_MIN_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "RTO_MAX_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "RTO_INITIAL_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "STATS_INTERVAL_US": "connection/test_stats.py::test_quality_is_noted_once_in_an_interval",
    "STATS_INSTANT_US": "connection/test_stats.py::test_a_report_rides_along_once_its_interval_is_over",
    "STATS_INSTANT_FORCED_US": "connection/test_stats.py::test_without_a_packet_to_ride_on_a_report_waits_longer",
    "STATS_LIFETIME_US": "connection/test_stats.py::test_the_report_of_the_whole_lifetime_rides_along_every_two_minutes",
    "STATS_LIFETIME_FORCED_US": "connection/test_stats.py::test_without_a_packet_to_ride_on_a_report_waits_longer",
    "PING_MS_MAX": "connection/test_rtt.py::test_implausible_samples_are_not_taken",
    "CONNECTIONS_MAX": ("endpoint/test_link_table.py::test_an_endpoint_that_is_full_refuses_others_and_keeps_whom_it_has"),
    "REQUEST_REPEAT_US": ("endpoint/test_event_queue.py::test_a_stranger_who_keeps_asking_is_announced_again_after_a_pause"),
    "PENDING_REQUESTS_MAX": "threats/test_handshake_floods.py::test_one_host_may_have_16_requests_waiting_and_everybody_256",
    "PENDING_REQUESTS_PER_HOST_MAX": (
        "threats/test_handshake_floods.py::test_one_host_may_have_16_requests_waiting_and_everybody_256"
    ),
    "EVENTS_MAX": "threats/test_tables.py::test_events_nobody_fetches_are_bounded",
    "CHANNELS_PER_SESSION_MAX": "sessions/test_channels.py::test_no_more_than_4096_channels_are_remembered",
    "SESSION_IDLE_US": "endpoint/test_requests.py::test_a_session_ends_after_three_minutes_without_messages",
    "LOG_INTERVAL_US": "drivers/test_pump.py::test_a_defect_of_the_endpoint_is_counted_and_the_rest_goes_on",
    "timeout_initial_us": "connection/test_handshake.py::test_the_whole_time_is_the_configured_one",
    "timeout_connected_us": (
        "connection/test_liveness.py::test_silence_alone_ends_nothing_until_enough_questions_went_unanswered"
    ),
    "send_buffer_bytes": "endpoint/test_sending.py::test_a_full_send_buffer_refuses_and_takes_again_later",
    "recv_buffer_bytes": "endpoint/test_receiving.py::test_a_small_receive_buffer_still_takes_large_messages",
    "recv_buffer_messages": "endpoint/test_receiving.py::test_reliable_messages_wait_at_the_sender_while_nobody_reads",
    "recv_message_bytes_max": ("endpoint/test_unconfirmed.py::test_a_protocol_violation_ends_the_session_on_both_sides"),
    "recv_segments_per_packet_max": "connection/test_limits.py::test_as_many_segments_as_fit_a_packet_are_read",
    "rate": "connection/test_rate.py::test_the_fixed_rate_is_what_was_configured_whatever_happens",
    "send_rate_bytes": "connection/test_rate.py::test_the_fixed_rate_is_what_was_configured_whatever_happens",
    "nagle_us": "connection/test_limits.py::test_a_small_message_waits_for_company_as_long_as_configured",
    "no_delay_queue_us": ("endpoint/test_sending.py::test_no_delay_messages_are_dropped_while_more_than_200_ms_is_queued"),
    "datagram_bytes": ("properties/test_transmitted_packets.py::test_a_packet_with_every_report_there_is_keeps_its_size"),
    "unencrypted": "connection/test_handshake.py::test_plain_text_needs_the_wish_of_both",
    "send_time_since_previous": (
        "connection/test_limits.py::test_a_reference_peer_hears_the_time_since_the_packet_before_only_if_asked_for"
    ),
    "framing": "endpoint/test_sending.py::test_raw_framing_sends_the_payload_alone_on_channel_0",
    "trust": "connection/test_handshake.py::test_under_trust_key_names_and_addresses_stay_outside",
    "linger_us": "endpoint/test_requests.py::test_what_the_linger_time_did_not_suffice_for_is_reported",
    "session_idle_us": "endpoint/test_requests.py::test_the_idle_time_can_be_set_and_ends_with_1002",
    "pending_requests_max": "endpoint/test_requests.py::test_the_oldest_ignored_stranger_goes_first",
}


def constants_and_options() -> set[str]:
    return {name for name in vars(config) if name.isupper() and not name.startswith("_")} | {
        option.name for option in fields(Config)
    }


def test_every_limit_names_the_test_that_reaches_it() -> None:
    assert constants_and_options() == set(REACHED_BY)


@pytest.mark.parametrize("place", sorted(set(REACHED_BY.values())))
def test_the_tests_named_for_limits_exist(place: str) -> None:
    path, _, name = place.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


@pytest.mark.parametrize("name", sorted(config._RANGES))
def test_a_number_is_taken_from_one_end_of_its_range_to_the_other(name: str) -> None:
    low, high = config._RANGES[name]
    for good in (low, high):
        assert getattr(Config(**{name: good}), name) == good  # type: ignore[arg-type]
    for bad in (low - 1, high + 1, float(low), None):
        with pytest.raises(UsageError, match=f"{name} must be a whole number from {low} to {high}"):
            Config(**{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(config._CHOICES))
def test_a_word_is_taken_if_it_is_one_of_the_choices(name: str) -> None:
    for value in config._CHOICES[name]:
        assert getattr(Config(**{name: value}), name) == value  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{name} must be one of"):
        Config(**{name: "nonsense"})  # type: ignore[arg-type]
