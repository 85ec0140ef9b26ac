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
    "SHIM_CLOSE_US": (
        "adapters/test_asyncio_shim.py::test_what_was_sent_just_before_the_transport_is_closed_leaves_and_the_loop_goes_on"
    ),
    "SHIM_PORT": "adapters/test_socket_shim.py::test_a_stranger_has_a_fake_address_which_answers_reach",
    "SHIM_DATAGRAM_BYTES_MAX": "adapters/test_socket_shim.py::test_a_datagram_is_as_long_as_udp_allows",
    "SHIM_QUEUE_DATAGRAMS_MAX": "adapters/test_socket_shim.py::test_who_does_not_read_loses_what_a_full_queue_does_not_hold",
    "SHIM_QUEUE_BYTES_MAX": "adapters/test_socket_shim.py::test_large_datagrams_fill_the_queue_by_their_bytes",
    "SHIM_TRANSPORT_BYTES_MAX": (
        "adapters/test_asyncio_shim.py::test_what_does_not_fit_is_held_up_to_a_limit_and_the_protocol_is_asked_to_pause"
    ),
    "SHIM_TRANSPORT_HIGH_BYTES": (
        "adapters/test_asyncio_shim.py::test_what_does_not_fit_is_held_up_to_a_limit_and_the_protocol_is_asked_to_pause"
    ),
    "FAKE_ADDRESSES_MAX": "adapters/test_fake_addresses.py::test_beyond_the_limit_newcomers_get_none_and_the_others_keep_theirs",
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
    "CLAIM_WAIT_SIGNALED_US": "endpoint/test_unsigned_closes.py::test_a_close_that_nobody_contradicts_ends_a_call",
    "CLAIM_WAIT_US": "endpoint/test_restart.py::test_an_unproven_close_is_believed_when_a_reference_peer_is_silent",
    "GOODBYE_WAIT_US": "endpoint/test_goodbyes.py::test_what_comes_long_after_a_goodbye_is_not_received",
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
    "BLOB_CHUNK_BYTES": "test_blobs.py::test_a_blob_arrives_whole_and_with_its_name",
    "BLOB_WINDOW_BYTES": "test_blobs.py::test_a_sender_is_never_further_ahead_than_the_window_and_keeps_other_channels_free",
    "BLOB_BYTES_IN_MEMORY_MAX": "test_blobs.py::test_into_memory_goes_so_much_unless_more_is_asked_for",
    "BLOB_NAME_BYTES_MAX": "test_blobs.py::test_nobody_there_is_told_in_time",
    "BLOB_OFFERS_MAX": "test_blobs.py::test_messages_that_are_no_blobs_do_no_harm_and_offers_have_a_limit",
    "BLOB_FINISHED_MAX": "test_blobs.py::test_a_sender_who_missed_the_end_is_told_again_while_it_is_remembered",
    "BLOB_RETRY_US": "test_blobs.py::test_a_transfer_goes_on_after_its_session_was_broken",
    "RTO_MIN_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "RTO_MAX_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "RTO_INITIAL_US": "connection/test_rtt.py::test_the_time_out_stays_within_its_bounds",
    "STATS_INTERVAL_US": "connection/test_stats.py::test_quality_is_noted_once_in_an_interval",
    "STATS_INSTANT_US": "connection/test_stats.py::test_a_report_rides_along_once_its_interval_is_over",
    "STATS_INSTANT_FORCED_US": "connection/test_stats.py::test_without_a_packet_to_ride_on_a_report_waits_longer",
    "STATS_LIFETIME_US": "connection/test_stats.py::test_the_report_of_the_whole_lifetime_rides_along_every_two_minutes",
    "STATS_LIFETIME_FORCED_US": "connection/test_stats.py::test_without_a_packet_to_ride_on_a_report_waits_longer",
    "PING_ANSWERS_KEPT": "connection/test_pings.py::test_only_the_latest_answers_are_kept",
    "PING_MS_MAX": "connection/test_rtt.py::test_implausible_samples_are_not_taken",
    "SIGNAL_BYTES_MAX": "wire/test_signals.py::test_a_signal_has_a_limit_whatever_is_in_it",
    "SIGNAL_RELIABLE_MAX": "wire/test_signals.py::test_each_part_has_its_limit",
    "SIGNAL_RELIABLE_BYTES_MAX": "signaling/test_delivery.py::test_a_signal_holds_so_many_bytes_of_entries",
    "SIGNAL_RELIABLE_QUEUED_MAX": ("signaling/test_delivery.py::test_so_many_entries_wait_for_a_peer_who_acknowledges_nothing"),
    "SIGNAL_CANDIDATE_BYTES_MAX": "wire/test_signals.py::test_each_part_has_its_limit",
    "SIGNAL_PASSWORD_BYTES_MAX": "wire/test_signals.py::test_each_part_has_its_limit",
    "SIGNAL_APPLICATION_MESSAGES_MAX": "wire/test_signals.py::test_each_part_has_its_limit",
    "SIGNAL_REPEAT_US": ("signaling/test_delivery.py::test_an_entry_is_due_at_once_and_again_a_second_after_it_was_sent"),
    "SIGNALING_RECONNECT_MIN_US": ("signaling/test_reconnect.py::test_every_wait_is_between_the_shortest_and_the_longest"),
    "SIGNALING_RECONNECT_MAX_US": "signaling/test_reconnect.py::test_waits_grow_up_to_the_longest",
    "SIGNALING_STEADY_US": (
        "signaling/test_reconnect.py::test_a_connection_that_held_makes_the_next_wait_short_again_and_one_that_did_not_does_not"
    ),
    "SIGNALING_CONNECT_TIMEOUT_US": (
        "drivers/signaling/test_line_client.py::test_a_server_that_does_not_answer_is_given_up_after_a_while"
    ),
    "SIGNALING_UNSENT_MAX": ("signaling/test_line_protocol.py::test_the_oldest_signal_gives_way_when_too_many_wait"),
    "SIGNAL_LINE_BYTES_MAX": (
        "signaling/test_line_protocol.py::test_a_line_that_is_too_long_is_skipped_and_the_next_one_is_read"
    ),
    "LINE_SERVER_CLIENTS_MAX": (
        "signaling/test_line_protocol.py::test_a_server_that_is_full_refuses_others_and_keeps_whom_it_has"
    ),
    "LINE_SERVER_GREETING_US": ("signaling/test_line_protocol.py::test_who_does_not_say_a_name_in_time_is_closed"),
    "LINE_SERVER_UNSENT_BYTES_MAX": "signaling/test_line_protocol.py::test_who_does_not_read_is_cut_off",
    "IN_PROCESS_SIGNALS_MAX": ("drivers/signaling/test_in_process.py::test_so_many_signals_are_under_way_and_no_more"),
    "GODOT_NAMES_MAX": "adapters/test_godot_registry.py::test_a_registry_holds_so_many_names_and_no_more",
    "CONNECTIONS_MAX": ("endpoint/test_link_table.py::test_an_endpoint_that_is_full_refuses_others_and_keeps_whom_it_has"),
    "IMPOSTOR_REPEAT_US": (
        "endpoint/test_trust.py::test_a_name_with_another_key_stays_out_and_people_hear_of_both_keys_and_of_the_command"
    ),
    "IMPOSTORS_KEPT_MAX": "endpoint/test_trust.py::test_impostors_without_number_cost_no_memory",
    "KNOWN_PEERS_MAX": "endpoint/test_trust.py::test_no_more_than_so_many_keys_are_remembered",
    "REQUEST_REPEAT_US": ("endpoint/test_event_queue.py::test_a_stranger_who_keeps_asking_is_announced_again_after_a_pause"),
    "PENDING_REQUESTS_MAX": "threats/test_handshake_floods.py::test_one_host_may_have_16_requests_waiting_and_everybody_256",
    "PENDING_REQUESTS_PER_HOST_MAX": (
        "threats/test_handshake_floods.py::test_one_host_may_have_16_requests_waiting_and_everybody_256"
    ),
    "EVENTS_MAX": "threats/test_tables.py::test_events_nobody_fetches_are_bounded",
    "CHANNELS_PER_SESSION_MAX": "sessions/test_channels.py::test_no_more_than_4096_channels_are_remembered",
    "SESSION_IDLE_US": "endpoint/test_requests.py::test_a_session_ends_after_three_minutes_without_messages",
    "LOG_INTERVAL_US": "drivers/test_pump.py::test_a_defect_of_the_endpoint_is_counted_and_the_rest_goes_on",
    "STREAM_CONNECT_US": "drivers/test_streams.py::test_who_does_not_answer_is_given_up_after_five_seconds",
    "STREAM_QUEUE_BYTES_MAX": ("drivers/test_streams.py::test_a_peer_that_never_reads_costs_a_bounded_queue_and_whole_packets"),
    "NAMES_WAITING_MAX": "drivers/test_names.py::test_more_names_than_may_wait_are_answered_with_nothing_at_once",
    "NAME_LOOKUP_US": ("drivers/test_names.py::test_what_takes_too_long_is_answered_with_nothing_and_the_late_answer_dropped"),
    "NAME_THREADS_MAX": "drivers/test_names.py::test_more_names_than_may_wait_are_answered_with_nothing_at_once",
    "INTERFACES_SETTLE_US": "drivers/test_interfaces.py::test_signs_are_gathered_for_a_moment_before_one_look",
    "INTERFACES_POLL_US": (
        "drivers/test_interfaces.py::test_without_signs_the_list_is_looked_at_every_two_seconds_and_told_when_it_differs"
    ),
    "SIGNALS_WAITING_MAX": "drivers/test_signals.py::test_a_flood_of_signals_is_bounded_and_taken_in_portions",
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
    "receipts_max": "endpoint/test_receipts.py::test_receipts_are_bounded_and_none_is_dropped",
    "linger_us": "endpoint/test_requests.py::test_what_the_linger_time_did_not_suffice_for_is_reported",
    "session_idle_us": "endpoint/test_requests.py::test_the_idle_time_can_be_set_and_ends_with_1002",
    "ICE_CANDIDATE_BYTES_MAX": "routes/test_candidates.py::test_text_is_read_up_to_its_longest",
    "ICE_REMOTE_CANDIDATES_MAX": "routes/test_check_list.py::test_no_more_than_32_addresses_of_a_peer_are_kept",
    "ICE_PAIRS_MAX": "routes/test_check_list.py::test_no_more_than_100_pairs_are_made_and_the_preferred_ones_win",
    "ICE_HOSTS_MAX": "routes/test_checks.py::test_no_more_than_so_many_hosts_get_checks_in_vain",
    "ICE_UNANSWERED_PACKETS_MAX": "routes/test_agenda.py::test_any_list_at_one_host_draws_160_packets_and_16_kib_at_most",
    "ICE_KNOWN_HOST_CHECK_US": "routes/test_checks.py::test_a_host_that_was_the_peers_gets_a_check_now_and_then",
    "ICE_BUDGET_RENEW_US": "routes/test_agenda.py::test_a_change_of_our_network_lets_hosts_be_checked_anew_but_not_all_the_time",
    "ICE_CHECK_INTERVAL_US": "routes/test_agenda.py::test_the_first_check_goes_at_once_and_the_others_follow_twenty_ms_apart",
    "ICE_CHECK_SENDS_MAX": "routes/test_agenda.py::test_a_check_nobody_answers_is_sent_five_times_within_a_round",
    "ICE_RETRY_SENDS_MAX": "routes/test_upkeep.py::test_a_failed_pair_is_checked_again_and_later_each_time_while_nothing_works",
    "ICE_RTO_INITIAL_US": "routes/test_checks.py::test_a_check_is_repeated_with_its_id_after_waits_that_double",
    "ICE_RTO_MIN_US": "routes/test_pairs.py::test_the_wait_for_an_answer_follows_the_round_trip_within_bounds",
    "ICE_RTO_MAX_US": "routes/test_pairs.py::test_the_wait_for_an_answer_follows_the_round_trip_within_bounds",
    "ICE_PROBE_LIFETIME_US": "routes/test_checks.py::test_a_probe_is_known_for_its_lifetime",
    "ICE_RETRY_US": "routes/test_upkeep.py::test_a_failed_pair_is_checked_again_and_later_each_time_while_nothing_works",
    "ICE_RETRY_MAX_US": "routes/test_upkeep.py::test_a_failed_pair_is_checked_again_and_later_each_time_while_nothing_works",
    "ICE_FRESH_US": "routes/test_agenda.py::test_a_check_on_a_pair_that_answered_lately_is_not_returned",
    "ICE_CONSENT_MIN_US": "routes/test_consent.py::test_consent_is_asked_for_every_four_to_six_seconds",
    "ICE_CONSENT_MAX_US": "routes/test_consent.py::test_consent_is_asked_for_every_four_to_six_seconds",
    "ICE_CONSENT_EXPIRY_US": "routes/test_ice_agent.py::test_without_consent_for_thirty_seconds_the_way_is_lost",
    "ICE_PROBE_INTERVAL_US": "routes/test_consent.py::test_a_suspected_pair_is_asked_quickly_and_later_slowly",
    "ICE_PROBE_SLOW_US": "routes/test_consent.py::test_a_suspected_pair_is_asked_quickly_and_later_slowly",
    "ICE_PATIENCE_MARGIN_US": "routes/test_consent.py::test_patience_is_three_round_trips_and_a_margin_within_bounds",
    "ICE_PATIENCE_MIN_US": "routes/test_consent.py::test_patience_is_three_round_trips_and_a_margin_within_bounds",
    "ICE_PATIENCE_MAX_US": "routes/test_consent.py::test_patience_is_three_round_trips_and_a_margin_within_bounds",
    "ICE_SPARE_INTERVAL_US": "routes/test_consent.py::test_a_stand_in_is_checked_every_fifteen_seconds_and_at_once_on_suspicion",
    "ICE_SPARE_PROBES_MAX": "routes/test_upkeep.py::test_a_stand_in_that_stops_answering_is_none_any_more",
    "ICE_PROVE_INTERVAL_US": "routes/test_consent.py::test_a_better_pair_that_comes_back_is_watched_closely",
    "ICE_PROVE_US": "routes/test_choose.py::test_a_better_kind_that_failed_before_has_to_prove_itself",
    "ICE_PROVE_MAX_US": "routes/test_choose.py::test_each_failure_doubles_the_time_of_proof_up_to_its_bound",
    "ICE_PROVE_ANSWERS": "routes/test_choose.py::test_a_better_kind_that_failed_before_has_to_prove_itself",
    "ICE_SETTLE_US": "routes/test_ice_agent.py::test_after_the_settling_time_priority_alone_moves_nothing",
    "ICE_RTT_GAIN_US": "routes/test_choose.py::test_a_clearly_smaller_round_trip_moves_us_between_equals",
    "ICE_RTT_GAIN_PERCENT": "routes/test_choose.py::test_a_clearly_smaller_round_trip_moves_us_between_equals",
    "ICE_RTT_SAMPLES": "routes/test_choose.py::test_a_clearly_smaller_round_trip_moves_us_between_equals",
    "ICE_MOVED_US": "routes/test_ice_agent.py::test_data_by_another_way_makes_us_look_after_ours",
    "ICE_MOVED_PAUSE_US": "routes/test_ice_agent.py::test_data_by_another_way_all_the_time_makes_us_look_now_and_then",
    "ICE_ANSWERS_WAITING_MAX": "routes/test_ice_agent.py::test_no_more_answers_wait_than_one_would_send_at_once",
    "ICE_OLD_PASSWORD_US": "routes/test_incoming.py::test_a_replaced_password_holds_for_a_while",
    "STUN_ATTRIBUTES_MAX": "wire/test_stun.py::test_as_many_attributes_as_allowed_are_read",
    "STUN_ANSWER_BYTES_MAX": "routes/test_stun_client.py::test_a_long_answer_is_not_looked_at",
    "STUN_ATTEMPTS_MAX": "routes/test_stun_client.py::test_a_silent_server_is_asked_five_times_with_growing_pauses",
    "STUN_RTO_US": "routes/test_stun_client.py::test_a_silent_server_is_asked_five_times_with_growing_pauses",
    "STUN_RTO_MAX_US": "routes/test_stun_client.py::test_after_a_silence_all_are_asked_again_later",
    "STUN_STREAM_ANSWER_US": "routes/test_turn_client.py::test_over_a_stream_nothing_is_repeated_and_silence_is_the_end",
    "STUN_KEEPALIVE_US": "routes/test_stun_client.py::test_the_mapping_is_kept_and_its_change_noticed",
    "STUN_REDIRECTS_MAX": "routes/test_stun_client.py::test_a_redirect_is_followed_once_if_that_is_allowed",
    "TURN_AUTH_ROUNDS_MAX": "routes/test_turn_client.py::test_endless_challenges_end_after_three_rounds",
    "TURN_ALLOCATE_ROUNDS_MAX": "routes/test_turn_client.py::test_other_forms_of_the_request_are_tried_a_few_times",
    "TURN_REFRESH_INTERVAL_US": "routes/test_turn_client.py::test_a_tiny_lifetime_makes_no_flood",
    "TURN_LIFETIME_S_MAX": "routes/test_turn_client.py::test_a_huge_lifetime_is_not_believed",
    "TURN_PERMISSION_REFRESH_US": "routes/test_turn_client.py::test_permissions_channels_and_allocation_live_for_hours",
    "TURN_PERMISSION_UNUSED_US": "routes/test_turn_client.py::test_permissions_nobody_uses_run_out",
    "TURN_PERMISSION_ADDRESSES_MAX": "routes/test_turn_client.py::test_a_permission_request_names_ten_addresses_at_most",
    "TURN_CHANNEL_REFRESH_US": "routes/test_turn_client.py::test_channels_are_renewed_before_ten_minutes",
    "TURN_CHANNEL_REST_US": "routes/test_channel_numbers.py::test_a_number_rests_before_another_peer_gets_it",
    "TURN_PEERS_MAX": "routes/test_turn_client.py::test_tables_of_peers_and_channels_have_ends",
    "TURN_CHANNELS_MAX": "routes/test_channel_numbers.py::test_only_so_many_numbers_are_in_use",
    "TURN_RELEASE_US": "routes/test_turn_client.py::test_a_release_that_nobody_hears_ends_too",
    "ICE_SERVERS_MAX": "routes/test_ice_servers.py::test_more_servers_than_the_limit_are_refused",
    "ICE_SERVER_ADDRESSES_MAX": "routes/test_gather.py::test_of_a_name_with_many_addresses_a_few_are_used",
    "NAME_RESOLUTION_US": "routes/test_gather.py::test_a_name_is_waited_for_three_seconds_and_asked_for_less_and_less_often",
    "SERVER_RETRY_US": "routes/test_gather.py::test_a_server_that_refuses_is_asked_less_and_less_often",
    "SERVER_RETRY_MAX_US": "routes/test_gather.py::test_a_server_that_refuses_is_asked_less_and_less_often",
    "GATHERING_US_MAX": "routes/test_gather.py::test_a_hostile_server_spoils_nothing",
    "HOST_SOCKETS_MAX": "routes/test_gather.py::test_no_more_sockets_than_the_limit",
    "SOCKET_RETRIES_MAX": "routes/test_gather.py::test_an_address_that_can_never_be_bound_is_left_alone",
    "SOCKET_RETRY_US": "routes/test_gather.py::test_an_address_that_cannot_be_bound_yet_is_tried_again",
    "RELAYS_PER_FAMILY_MAX": (
        "routes/test_gather.py::test_two_relays_of_a_family_are_kept_on_different_servers_and_the_rest_released"
    ),
    "RELAY_ATTEMPTS_MAX": "routes/test_gather.py::test_no_more_allocations_are_tried_at_once_than_the_limit",
    "RELAY_ATTEMPTS_PER_SERVER_MAX": "routes/test_gather.py::test_no_more_allocations_are_tried_at_one_server_than_the_limit",
    "STREAM_OPEN_US": "routes/test_gather.py::test_a_connection_may_take_five_seconds",
    "PORT_MAPPING_ATTEMPTS_MAX": "routes/test_port_mapping.py::test_all_protocols_are_tried_one_after_the_other_and_then_no_more",
    "PORT_MAPPING_LIFETIME_S": "routes/test_port_mapping.py::test_a_mapping_the_router_does_not_renew_ends",
    "PORT_MAPPING_RENEW_US_MIN": "routes/test_port_mapping.py::test_a_short_lifetime_makes_no_flood",
    "PORT_MAPPING_RELEASE_US": "routes/test_port_mapping.py::test_all_protocols_are_tried_one_after_the_other_and_then_no_more",
    "UPNP_SEARCH_US": "routes/test_port_mapping.py::test_a_search_is_answered_by_the_router_in_time_or_not_at_all",
    "UPNP_ANSWER_US": "routes/test_port_mapping.py::test_a_router_that_answers_nonsense_is_left_alone",
    "UPNP_ANSWER_BYTES_MAX": "routes/test_port_mapping.py::test_a_router_that_answers_nonsense_is_left_alone",
    "UPNP_PORTS_MAX": "routes/test_port_mapping.py::test_a_few_ports_are_tried_and_no_more",
    "gather_idle_us": "routes/test_gather.py::test_when_nobody_needs_them_relays_are_released_and_sockets_closed",
    "ice_spares_max": "routes/test_agenda.py::test_how_many_stand_ins_there_are_can_be_set",
    "pending_requests_max": "endpoint/test_requests.py::test_the_oldest_ignored_stranger_goes_first",
    "CARRIED_BYTES_MAX": "signaling/test_lan_protocol.py::test_a_signal_that_is_too_large_is_not_sent",
    "SIGNALS_PAIR_PER_S": "signaling/test_lan_protocol.py::test_one_sender_is_heard_twenty_times_at_once_and_ten_times_a_second",
    "SIGNALS_PAIR_BURST": "signaling/test_lan_protocol.py::test_one_sender_is_heard_twenty_times_at_once_and_ten_times_a_second",
    "SIGNALS_SENDER_PER_S": "servers/test_signaling_core.py::test_one_sender_reaches_no_more_than_fifty_a_second",
    "SIGNALS_SENDER_BURST": "servers/test_signaling_core.py::test_one_sender_reaches_no_more_than_fifty_a_second",
    "SIGNALS_HOST_PAIR_PER_S": "servers/test_signaling_core.py::test_many_keys_of_one_address_are_no_way_around_it",
    "SIGNALS_HOST_PAIR_BURST": "servers/test_signaling_core.py::test_many_keys_of_one_address_are_no_way_around_it",
    "SIGNALS_VICTIM_PER_S": "servers/test_signaling_core.py::test_a_receiver_gets_no_more_than_200_a_second_from_all_together",
    "SIGNALS_VICTIM_BURST": "servers/test_signaling_core.py::test_a_receiver_gets_no_more_than_200_a_second_from_all_together",
    "SIGNAL_RATE_KEYS_MAX": "signaling/test_rates.py::test_there_are_never_more_than_the_limit_and_the_oldest_goes",
    "LAN_PORT": "drivers/signaling/test_lan.py::test_it_works_where_lo_is_the_only_interface",
    "LAN_GROUP_4": "drivers/signaling/test_lan.py::test_it_works_where_lo_is_the_only_interface",
    "LAN_GROUP_6": "drivers/signaling/test_lan.py::test_ipv6_alone_is_enough",
    "LAN_DATAGRAM_BYTES_MAX": "signaling/test_lan_protocol.py::test_pieces_fit_into_datagrams_and_join",
    "LAN_PIECES_MAX": "signaling/test_lan_protocol.py::test_pieces_fit_into_datagrams_and_join",
    "LAN_INTERFACES_MAX": "drivers/signaling/test_lan.py::test_of_very_many_interfaces_some_are_used_loopback_first",
    "LAN_MULTICAST_INTERVAL_US": (
        "signaling/test_lan_protocol.py::test_who_was_heard_is_called_where_he_was_and_by_multicast_once_a_second"
    ),
    "LAN_PLACE_US": "signaling/test_lan_protocol.py::test_a_place_that_was_not_heard_for_a_minute_is_forgotten",
    "LAN_PEERS_KEPT": "signaling/test_lan_protocol.py::test_a_thousand_peers_are_remembered_and_not_more",
    "LAN_COPIES_KEPT": "signaling/test_lan_protocol.py::test_copies_are_told_for_as_long_as_a_thousand_signals",
    "LAN_HOST_PER_S": "signaling/test_lan_protocol.py::test_one_host_with_many_names_leaves_room_for_others",
    "LAN_HOST_BURST": "signaling/test_lan_protocol.py::test_one_host_with_many_names_leaves_room_for_others",
    "LAN_TOTAL_PER_S": "signaling/test_lan_protocol.py::test_all_hosts_together_are_limited",
    "LAN_TOTAL_BURST": "signaling/test_lan_protocol.py::test_all_hosts_together_are_limited",
    "LAN_UNFINISHED_MAX": "signaling/test_lan_protocol.py::test_unfinished_signals_are_bounded_in_all_and_per_host",
    "LAN_UNFINISHED_PER_HOST_MAX": "signaling/test_lan_protocol.py::test_unfinished_signals_are_bounded_in_all_and_per_host",
    "LAN_UNFINISHED_US": "signaling/test_lan_protocol.py::test_a_missing_piece_is_waited_for_a_second_and_no_longer",
    "LAN_LOOK_INTERVAL_US": "drivers/signaling/test_lan.py::test_interfaces_that_come_and_go_are_followed",
    "LAN_LOOK_SETTLED_US": "drivers/signaling/test_lan.py::test_a_new_interface_is_noticed_at_once",
    "LEAF_CERTIFICATE_BYTES_MAX": "crypto/test_authority.py::test_a_certificate_that_fits_no_hello_is_not_made",
    "CERTIFICATE_AHEAD_S_MAX": "crypto/test_trust.py::test_a_certificate_from_the_future_is_refused_and_one_of_today_is_not",
    "AUTHORITY_CHAIN_MAX": "crypto/test_trust.py::test_a_chain_has_so_many_links_and_no_more",
    "AUTHORITY_FILE_BYTES_MAX": "drivers/test_authority_files.py::test_a_file_that_is_too_long_is_none",
    "AUTHORITY_FILE_PROBLEMS_MAX": "crypto/test_authority_text.py::test_of_many_bad_lines_some_are_named",
    "LOGIN_CERTIFICATE_BYTES_MAX": "signaling/test_websocket_protocol.py::test_what_a_client_may_not_say_is_one_kind_of_error",
    "SERVER_URLS_MAX": ("signaling/test_server_url.py::test_no_server_and_too_many_get_a_sentence"),
    "SERVER_DRAIN_TOLD_PER_S": (
        "servers/test_fleet_core.py::test_a_node_that_drains_tells_its_clients_a_few_at_a_time_and_takes_nobody"
    ),
    "SERVER_DRAIN_SLOT_US": (
        "servers/test_fleet_core.py::test_a_node_that_drains_tells_its_clients_a_few_at_a_time_and_takes_nobody"
    ),
    "SERVER_DRAIN_TOLD_US": ("servers/test_fleet_core.py::test_however_many_clients_a_node_has_draining_tells_them_all_in_time"),
    "SERVER_DRAIN_US": ("servers/test_lifecycle.py::test_who_is_used_by_others_has_time_until_they_are_gone"),
    "FLEET_NODE_NAME_BYTES_MAX": ("servers/test_fleet_core.py::test_names_of_nodes_that_are_none"),
    "FLEET_NODES_MAX": ("servers/test_fleet_core.py::test_tables_about_other_nodes_are_limited"),
    "FLEET_BEAT_US": ("servers/test_fleet_core.py::test_nodes_know_each_others_load_and_forget_who_is_gone"),
    "FLEET_NODE_LOST_US": ("servers/test_fleet_core.py::test_nodes_know_each_others_load_and_forget_who_is_gone"),
    "FLEET_ANNOUNCE_US": ("servers/test_fleet_core.py::test_after_the_bus_was_torn_everybody_is_announced_at_a_pace"),
    "FLEET_ANNOUNCED_AT_ONCE": ("servers/test_fleet_core.py::test_after_the_bus_was_torn_everybody_is_announced_at_a_pace"),
    "FLEET_DOCUMENT_BYTES_MAX": ("servers/test_fleet_core.py::test_a_document_that_is_too_large_is_refused_where_it_is_shared"),
    "FLEET_QUEUE_MAX": ("servers/test_fleet.py::test_what_waits_for_the_bus_is_limited"),
    "FLEET_PENDING_BYTES_MAX": ("servers/test_fleet.py::test_what_waits_for_the_bus_is_limited"),
    "FLEET_START_US": ("servers/test_fleet.py::test_without_a_broker_a_node_says_so_in_time"),
    "FLEET_CONNECT_US": ("servers/test_fleet.py::test_without_a_store_a_node_refuses_to_start_unless_told_how_to_decide"),
    "FLEET_RETRY_US": ("servers/test_fleet.py::test_nodes_and_brokers_are_killed_in_turn_and_calls_go_on"),
    "FLEET_PING_US": ("servers/test_fleet.py::test_a_broker_that_falls_silent_is_given_up"),
    "FLEET_PINGS_LOST_MAX": ("servers/test_fleet.py::test_a_broker_that_falls_silent_is_given_up"),
    "FLEET_LEASE_MARGIN_US": (
        "servers/test_fleet_core.py::test_a_node_never_lets_in_by_memory_whose_name_may_be_somebody_elses_by_now"
    ),
    "FLEET_CLAIM_US": (
        "servers/test_fleet.py::test_while_the_only_broker_is_away_known_names_come_in_new_ones_wait_and_then_all_is_well_again"
    ),
    "FLEET_CLAIM_TRY_US": (
        "servers/test_fleet.py::test_while_the_only_broker_is_away_known_names_come_in_new_ones_wait_and_then_all_is_well_again"
    ),
    "FLEET_CLAIM_RETRY_US": (
        "servers/test_fleet.py::test_while_the_only_broker_is_away_known_names_come_in_new_ones_wait_and_then_all_is_well_again"
    ),
    "FLEET_CLAIMS_MAX": ("servers/test_fleet_core.py::test_logins_that_wait_for_the_store_are_limited"),
    "FLEET_RENEWALS_AT_ONCE": ("servers/test_fleet.py::test_names_that_are_due_are_written_again_a_few_at_a_time"),
    "FLEET_NAMES_MAX": ("servers/test_fleet_store.py::test_a_full_bucket_takes_no_new_names_and_keeps_the_known_ones"),
    "FLEET_NEW_NAMES_MAX": ("servers/test_fleet_store.py::test_a_full_bucket_takes_no_new_names_and_keeps_the_known_ones"),
    "FLEET_NAME_BYTES_MAX": ("servers/test_fleet_store.py::test_the_longest_name_fits_and_no_more_than_an_entry_does"),
    "FLEET_REPLICAS": ("servers/test_fleet_store.py::test_three_brokers_keep_a_copy_each_and_fewer_one"),
    "SERVER_ISSUED_US": "servers/test_login_certificates.py::test_what_is_issued_ends_before_the_name_can_be_anothers",
    "SERVE_PORT": "signaling/test_server_url.py::test_what_is_understood",
    "STUN_PORT": "cli/test_serve.py::test_the_help_names_the_ports",
    "SERVER_URL_BYTES_MAX": "signaling/test_server_url.py::test_what_is_not_gets_a_sentence",
    "REFUSAL_TEXT_BYTES_MAX": "signaling/test_websocket_protocol.py::test_what_a_server_may_not_say_is_one_kind_of_error",
    "SERVER_CLIENTS_MAX": "servers/test_signaling_core.py::test_a_full_server_says_so_and_keeps_those_it_has",
    "SERVER_CLIENTS_PER_HOST_MAX": "servers/test_signaling_core.py::test_one_address_cannot_take_every_place",
    "SERVER_PENDING_MAX": "servers/test_signaling_core.py::test_of_those_who_never_log_in_the_oldest_gives_way",
    "SERVER_LOGIN_US": "servers/test_signaling_core.py::test_who_does_not_log_in_within_five_seconds_is_cut",
    "SERVER_QUIET_US": "servers/test_signaling_core.py::test_silence_is_asked_about_and_then_ends",
    "SERVER_QUIET_SLOT_US": "servers/test_signaling_core.py::test_thousands_of_silent_clients_wake_the_server_once_a_second",
    "SERVER_NOBODIES": "servers/test_who_is_here.py::test_neither_answers_nor_times_tell_who_is_here",
    "SERVER_HEADER_BYTES_MAX": "servers/test_run.py::test_a_header_without_end_is_cut_at_8_kib",
    "SERVER_UNSENT_BYTES_MAX": "servers/test_run.py::test_who_never_reads_is_cut_when_256_kib_wait",
    "SERVER_UNSENT_TOTAL_BYTES_MAX": "servers/test_run.py::test_all_who_never_read_together_hold_no_more_than_the_limit",
    "SERVER_SOCKET_BUFFER_BYTES": "servers/test_run.py::test_who_never_reads_is_cut_when_256_kib_wait",
    "SERVER_TLS_BUFFER_BYTES": "servers/test_run.py::test_silent_connections_take_little_memory_also_where_there_is_tls",
    "SERVER_FRAMES_PER_S": "servers/test_signaling_core.py::test_a_client_that_sends_far_too_much_is_cut",
    "SERVER_FRAMES_BURST": "servers/test_signaling_core.py::test_a_client_that_sends_far_too_much_is_cut",
    "SERVER_LOGINS_PER_S": (
        "servers/test_signaling_core.py::test_logins_are_limited_in_all_and_the_others_are_told_to_come_back"
    ),
    "SERVER_LOGINS_BURST": (
        "servers/test_signaling_core.py::test_logins_are_limited_in_all_and_the_others_are_told_to_come_back"
    ),
    "SERVER_LOGINS_PER_HOST_PER_S": "servers/test_signaling_core.py::test_logins_of_one_address_are_limited",
    "SERVER_LOGINS_PER_HOST_BURST": "servers/test_signaling_core.py::test_logins_of_one_address_are_limited",
    "SERVER_LOGINS_PER_NAME_PER_S": (
        "servers/test_signaling_core.py::test_two_clients_that_throw_each_other_out_all_the_time_are_slowed_down"
    ),
    "SERVER_LOGINS_PER_NAME_BURST": (
        "servers/test_signaling_core.py::test_two_clients_that_throw_each_other_out_all_the_time_are_slowed_down"
    ),
    "SERVER_HOSTS_WATCHED_MAX": "signaling/test_rates.py::test_there_are_never_more_than_the_limit_and_the_oldest_goes",
    "SERVER_NAMES_MAX": "servers/test_signaling_core.py::test_a_full_table_of_names_lets_known_names_and_keys_in",
    "SERVER_NAMES_PER_HOST_PER_S": "servers/test_signaling_core.py::test_new_names_of_one_address_are_limited",
    "SERVER_NAMES_PER_HOST_BURST": "servers/test_signaling_core.py::test_new_names_of_one_address_are_limited",
    "SERVER_NAME_PROVEN_US": "servers/test_signaling_core.py::test_a_name_that_was_used_is_kept_for_a_month",
    "SERVER_NAME_KEPT_US": "servers/test_signaling_core.py::test_a_name_that_was_used_is_kept_for_a_month",
    "SERVER_NAME_KEPT_SHORT_US": "servers/test_signaling_core.py::test_every_table_shrinks_back_to_nothing",
    "SERVER_SWEEP_US": "servers/test_signaling_core.py::test_every_table_shrinks_back_to_nothing",
    "SERVER_NAME_NOTED_US": (
        "servers/test_signaling_core.py::test_a_name_in_use_for_ten_minutes_is_kept_for_a_month_whenever_the_server_crashes"
    ),
    "SERVER_NAME_NOTED_SHORT_US": (
        "servers/test_signaling_core.py::test_who_comes_and_goes_under_a_known_name_is_news_every_ten_minutes_at_most"
    ),
    "SERVER_NAMES_SAVE_US": "servers/test_names_file.py::test_saving_takes_little_of_the_time_and_failing_even_less",
    "SERVER_NAMES_SAVE_SHARE": "servers/test_names_file.py::test_saving_takes_little_of_the_time_and_failing_even_less",
    "SERVER_NAMES_SAVE_RETRY_US": "servers/test_names_file.py::test_saving_takes_little_of_the_time_and_failing_even_less",
    "SERVER_NAMES_FILE_BYTES_MAX": "servers/test_names_file.py::test_what_is_no_file_of_names_is_refused_and_left_alone",
    "SERVER_NAMES_COMPLAINTS_MAX": "servers/test_names_file.py::test_of_many_bad_lines_a_few_are_named_and_the_others_counted",
    "SERVER_CLOSE_US": "servers/test_run.py::test_stopping_takes_less_than_a_second_whatever_clients_do",
    "TURN_TLS_PORT": "cli/test_serve.py::test_tls_is_at_its_usual_port_too",
    "TURN_ALLOCATIONS_MAX": "servers/test_turn_core.py::test_the_relay_has_so_many_allocations_and_no_more",
    "TURN_ALLOCATIONS_PER_IDENTITY_MAX": "servers/test_turn_core.py::test_one_identity_has_so_many_allocations_and_no_more",
    "TURN_ALLOCATIONS_PER_HOST_MAX": "servers/test_turn_core.py::test_one_host_has_so_many_allocations_and_no_more",
    "TURN_SERVER_PEERS_MAX": "servers/test_turn_core.py::test_an_allocation_has_so_many_peers_and_no_more",
    "TURN_BYTES_PER_IDENTITY_PER_S": (
        "servers/test_relay_threats.py::test_an_identity_forwards_so_many_bytes_a_second_over_all_it_has"
    ),
    "TURN_BYTES_PER_NETWORK_PER_S": "servers/test_relay_threats.py::test_one_network_and_all_together_have_their_rates_too",
    "TURN_BYTES_PER_S": "servers/test_relay_threats.py::test_a_hundred_greedy_ones_do_not_starve_ten_polite_ones",
    "TURN_BYTES_GUARANTEED_PER_S": "servers/test_relay_threats.py::test_one_network_and_all_together_have_their_rates_too",
    "TURN_PACKET_COST_BYTES": "servers/test_relay_threats.py::test_small_packets_are_charged_for_the_work_they_are",
    "TURN_ERRORS_PER_HOST_PER_S": "servers/test_relay_threats.py::test_errors_to_one_host_are_limited",
    "TURN_ERRORS_PER_S": "servers/test_relay_threats.py::test_errors_to_all_strangers_are_limited",
    "TURN_ERRORS_PER_IDENTITY_PER_S": "servers/test_relay_threats.py::test_strangers_do_not_use_up_what_is_told_to_clients",
    "TURN_ERRORS_BROUGHT_BYTES_MAX": "servers/test_relay_threats.py::test_a_credit_of_strangers_has_an_end",
    "TURN_ERRORS_ALLOWANCE_BYTES": "servers/test_relay_threats.py::test_a_credit_of_strangers_has_an_end",
    "TURN_ERRORS_ALLOWANCE_BYTES_PER_S": "servers/test_relay_threats.py::test_a_client_of_a_quiet_relay_has_its_answer_at_once",
    "TURN_STREAMS_MAX": "servers/test_relay_run.py::test_so_many_streams_and_no_more",
    "TURN_OWN_ADDRESSES_US": "servers/test_relay_run.py::test_an_address_that_the_machine_has_got_meanwhile_is_no_peer",
    "TURN_STREAMS_PER_HOST_PER_S": (
        "servers/test_relay_run.py::test_who_comes_and_goes_again_has_so_many_streams_a_second_and_no_more"
    ),
    "TURN_STREAMS_PER_HOST_BURST": (
        "servers/test_relay_run.py::test_who_comes_and_goes_again_has_so_many_streams_a_second_and_no_more"
    ),
    "TURN_STREAMS_PER_HOST_MAX": "servers/test_relay_run.py::test_so_many_streams_and_no_more",
    "TURN_STREAM_ALONE_US": "servers/test_relay_run.py::test_streams_without_an_allocation_are_closed_and_others_stay",
    "TURN_STREAM_STRANGER_BYTES_MAX": "servers/test_relay_streams.py::test_of_a_stranger_no_long_message_is_taken",
    "TURN_STREAM_QUEUE_MAX": "servers/test_relay_streams.py::test_of_what_a_slow_reader_leaves_the_newest_is_kept",
    "TURN_STREAM_QUEUE_BYTES_MAX": "servers/test_relay_streams.py::test_large_packets_wait_within_a_mebibyte",
    "TURN_STREAM_QUEUE_US": "servers/test_relay_streams.py::test_what_waited_for_two_seconds_is_not_sent_any_more",
    "TURN_STREAM_UNSENT_BYTES": "servers/test_relay_streams.py::test_little_waits_in_the_kernel",
    "TURN_CREDENTIAL_S_MAX": "servers/test_relay_access.py::test_a_name_ends_at_its_time_and_no_time_is_too_far_ahead",
    "TURN_NONCE_US": "servers/test_relay_access.py::test_a_nonce_holds_for_one_host_and_two_intervals_at_most",
    "STUN_ANSWERS_PER_HOST_PER_S": "servers/test_stun_responder.py::test_answers_to_one_address_and_in_all_are_limited",
    "STUN_ANSWERS_PER_HOST_BURST": "servers/test_stun_responder.py::test_answers_to_one_address_and_in_all_are_limited",
    "STUN_ANSWERS_PER_S": "servers/test_stun_responder.py::test_answers_to_one_address_and_in_all_are_limited",
    "STUN_ANSWERS_BURST": "servers/test_stun_responder.py::test_answers_to_one_address_and_in_all_are_limited",
    "SIGNALING_UNSENT_AGE_US": "signaling/test_unsent.py::test_signals_that_waited_too_long_are_not_sent",
    "SIGNALING_REFUSED_PAUSE_US": (
        "drivers/signaling/test_websocket.py::test_somebody_with_another_key_does_not_get_the_name_and_does_not_hammer"
    ),
    "SIGNALING_PING_US": "drivers/signaling/test_websocket.py::test_a_connection_that_no_longer_carries_is_given_up",
    "ICE_TRANSACTIONS_KEPT": "endpoint/test_calls.py::test_signals_and_checks_that_nobody_takes_are_bounded",
    "SIGNALS_QUEUED_MAX": "endpoint/test_calls.py::test_signals_and_checks_that_nobody_takes_are_bounded",
    "SIGNAL_ACK_US": "signaling/test_rendezvous.py::test_an_acknowledgement_waits_a_moment_for_company",
    "SIGNAL_GOODBYE_BYTES_MAX": "wire/test_signals.py::test_a_goodbye_of_a_whole_packet_is_the_longest",
    "SIGNAL_DENIALS_ALL_BURST": "endpoint/test_calls.py::test_who_makes_up_requests_gets_few_answers",
    "SIGNAL_DENIALS_ALL_PER_S": "endpoint/test_calls.py::test_who_makes_up_requests_gets_few_answers",
    "SIGNAL_DENIALS_BURST": "endpoint/test_calls.py::test_who_makes_up_requests_gets_few_answers",
    "SIGNAL_DENIALS_PER_S": "endpoint/test_calls.py::test_who_makes_up_requests_gets_few_answers",
    "SIGNAL_DENIAL_KEYS_MAX": "endpoint/test_calls.py::test_who_makes_up_requests_gets_few_answers",
    "SIGNAL_TELL_AGAIN_MAX_US": "endpoint/test_calls.py::test_addresses_that_a_service_changed_are_told_again",
    "SIGNAL_TELL_AGAIN_US": "endpoint/test_calls.py::test_addresses_that_a_service_changed_are_told_again",
    "SIGNAL_CLOSE_REPEATS_US": "signaling/test_rendezvous.py::test_a_close_is_repeated_until_it_is_confirmed",
    "SIGNAL_DISTANCE_US": (
        "signaling/test_rendezvous.py::test_what_is_found_a_moment_later_waits_only_for_the_distance_of_two_signals"
    ),
    "SIGNAL_REQUESTS_QUICK": "signaling/test_rendezvous.py::test_a_request_is_repeated_soon_at_first_until_it_is_answered",
    "SIGNAL_REQUEST_QUICK_US": "signaling/test_rendezvous.py::test_a_request_is_repeated_soon_at_first_until_it_is_answered",
    "SIGNAL_REQUEST_RETRY_US": "signaling/test_rendezvous.py::test_a_request_is_repeated_soon_at_first_until_it_is_answered",
    "port_mapping": "endpoint/test_calls.py::test_the_router_is_asked_for_a_port_only_if_that_is_wanted",
    "ping_location": "endpoint/test_relay_network.py::test_who_hides_tells_his_location_only_when_asked_to",
    "candidates": "endpoint/test_calls.py::test_with_relays_only_no_address_of_ours_is_told_or_used",
    "resume_window_us": "endpoint/test_calls.py::test_silence_beyond_the_resume_window_ends_it_with_a_report",
    "REMEMBERED_CALLS_MAX": "drivers/test_call_memory.py::test_no_more_calls_are_kept_than_may_be",
    "REMEMBERED_FILES_MAX": "drivers/test_call_memory.py::test_only_so_many_files_are_looked_at",
    "REMEMBERED_FILE_BYTES_MAX": "drivers/test_call_memory.py::test_a_long_run_does_not_let_its_file_grow",
    "KEY_FILE_BYTES_MAX": "drivers/test_key_files.py::test_a_file_that_is_no_key_is_named_with_what_is_wrong_with_it",
    "KEY_FILES_DEFAULT_MAX": "drivers/test_key_files.py::test_programs_without_a_name_get_a_key_each_up_to_sixteen",
    "KEY_FILES_LISTED_MAX": "drivers/test_key_files.py::test_only_so_many_files_are_looked_at",
    "KNOWN_PEERS_LOOK_US": "drivers/test_pump.py::test_peers_that_were_met_are_kept_and_changes_by_people_seen_within_a_second",
    "KNOWN_PEERS_FILE_BYTES_MAX": "drivers/test_known_peers_file.py::test_a_file_never_grows_beyond_what_is_read",
    "KNOWN_PEERS_LINE_BYTES_MAX": "drivers/test_known_peers_file.py::test_a_bad_line_is_named_and_costs_only_itself",
    "KNOWN_PEERS_PROBLEMS_MAX": "drivers/test_known_peers_file.py::test_a_file_of_something_else_is_told_in_a_few_lines",
    "KNOWN_PEERS_LOCK_US": "drivers/test_known_peers_file.py::test_a_program_that_stopped_while_writing_holds_up_no_other",
    "REMEMBERED_PER_PEER_MAX": "endpoint/test_memory.py::test_what_is_remembered_has_bounds",
    "SIGNAL_OLD_RUN_US": "endpoint/test_memory.py::test_the_connections_of_the_earlier_run_are_closed_ahead_of_the_request",
    "SIGNALING_UNACKNOWLEDGED_US": (
        "drivers/signaling/test_line_client.py::test_what_a_server_does_not_acknowledge_ends_the_connection_soon"
    ),
    "ICE_BUDGETS_KEPT_MAX": "endpoint/test_calls.py::test_of_very_many_peers_only_so_many_keep_their_share",
    "ICE_BUDGETS_KEPT_US": (
        "endpoint/test_calls.py::test_who_calls_again_and_again_has_us_send_no_more_to_others_than_who_calls_once"
    ),
    "RELAY_MAP_BYTES_MAX": "routes/test_relay_map.py::test_what_is_wrong_is_named_by_its_place",
    "RELAY_POPS_MAX": "routes/test_relay_map.py::test_what_is_wrong_is_named_by_its_place",
    "RELAY_SERVERS_PER_POP_MAX": "routes/test_relay_map.py::test_what_is_wrong_is_named_by_its_place",
    "RELAY_NAME_LETTERS_MAX": "routes/test_relay_map.py::test_a_name_has_so_many_letters_and_no_more",
    "RELAY_CREDENTIAL_BYTES_MAX": "signaling/test_websocket_protocol.py::test_tickets_have_bounds",
    "RELAY_TICKET_S": "servers/test_relay_desk.py::test_a_ticket_opens_the_relay_of_its_place_for_its_time_and_no_other",
    "RELAY_TICKET_S_MAX": "signaling/test_websocket_protocol.py::test_tickets_have_bounds",
    "PING_LOCATION_BYTES_MAX": "routes/test_ping_location.py::test_of_many_places_the_farthest_are_left_out",
    "PING_LOCATION_MS_MAX": "routes/test_ping_location.py::test_what_is_no_location_is_refused",
    "RELAY_PING_SAMPLES": "routes/test_relay_pings.py::test_the_smallest_of_several_samples_counts",
    "RELAY_PING_INTERVAL_US": "routes/test_relay_pings.py::test_the_smallest_of_several_samples_counts",
    "RELAY_PING_STAGGER_US": "routes/test_relay_pings.py::test_there_is_an_order_to_go_by_as_soon_as_all_have_answered_once",
    "RELAY_PING_WAIT_US": "routes/test_relay_pings.py::test_who_does_not_answer_holds_nobody_up_for_long",
    "RELAY_PING_LOOK_US": "routes/test_relay_pings.py::test_who_does_not_answer_holds_nobody_up_for_long",
    "RELAY_PING_NEAREST": "routes/test_relay_pings.py::test_later_rounds_ask_the_nearest_only_and_end_with_the_use",
    "RELAY_PING_AGE_US": "routes/test_relay_pings.py::test_while_calls_are_under_way_pings_are_kept_up_to_date",
    "RELAY_PING_RETRY_US": "routes/test_relay_pings.py::test_a_program_that_looks_in_every_frame_asks_nobody_more_often",
    "RELAY_PING_MAP_US": "routes/test_relay_pings.py::test_a_map_that_changes_all_the_time_has_nobody_asked_more_often",
    "RELAY_PING_IDLE_US": "routes/test_relay_pings.py::test_later_rounds_ask_the_nearest_only_and_end_with_the_use",
    "RELAY_POPS_NEAREST": "routes/test_relay_network.py::test_the_two_nearest_places_are_used_while_nobody_said_where_he_is",
    "RELAY_POPS_USED_MAX": (
        "routes/test_relay_network.py::test_of_many_peers_the_last_to_say_where_they_are_come_first_and_there_is_an_end"
    ),
    "RELAY_PEER_MOVE_US": "routes/test_relay_network.py::test_a_peer_who_moves_all_the_time_is_not_followed",
    "RELAY_PEER_MOVES_BURST": "routes/test_relay_network.py::test_a_peer_who_moves_all_the_time_is_not_followed",
    "RELAY_POP_KEEP_GAIN_US": "routes/test_relay_network.py::test_a_place_in_use_is_kept_unless_another_is_clearly_nearer",
    "RELAY_POP_KEEP_GAIN_PERCENT": "routes/test_relay_network.py::test_a_place_in_use_is_kept_unless_another_is_clearly_nearer",
    "SERVER_RELAY_NEWS_AT_ONCE": "servers/test_relay_desk.py::test_everybody_hears_of_another_map_a_few_at_a_time",
    "SERVER_RELAY_NEWS_PAUSE_US": "servers/test_relay_desk.py::test_everybody_hears_of_another_map_a_few_at_a_time",
    "ICE_CONTEST_LOSS_US": "routes/test_contest.py::test_the_cost_of_loss",
    "ICE_CONTEST_REST_US": (
        "routes/test_contest.py::test_a_direct_way_that_gets_better_is_taken_again_and_one_that_gets_worse_is_left"
    ),
    "ICE_CONTEST_REST_DOUBLINGS_MAX": "routes/test_contest.py::test_two_ways_that_are_alike_do_not_take_turns",
    "ICE_CONTEST_INTERVAL_US": (
        "routes/test_contest.py::test_a_direct_way_that_gets_better_is_taken_again_and_one_that_gets_worse_is_left"
    ),
    "ICE_CONTEST_FIRST_US": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_PROBES": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_PROBE_US": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_WAIT_US": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_AGAIN_US": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_EARLY_US": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_DIRECT_MAX": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_RELAYED_MAX": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
    "ICE_CONTEST_EARLY_GAIN_PERCENT": "routes/test_contest.py::test_the_best_relay_beats_a_bad_direct_way_on_both_sides",
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
