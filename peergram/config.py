"""Every tunable of the library: unit, default, limit and reason.

`Config` is what a user may set; the module constants are what the protocol or our own safety fixes. Names follow the reference's
configuration values (its number in brackets) with the unit added. Limits that bound memory or work name the row of the threat
table they answer, so that a test can be found by it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, Literal

from peergram.errors import UsageError

PROTOCOL_VERSION: Final = 13
"""What we speak; the reference 1.6 speaks the same."""
PROTOCOL_VERSION_MIN: Final = 8
"""Older peers are refused with reason 4006."""

DATAGRAM_BYTES_MAX: Final = 1300
"""Largest UDP payload sent, and largest plaintext accepted from a reference peer."""
DATAGRAM_BYTES_OWN_PEER_MAX: Final = 65_000
"""Largest UDP payload that an own peer may send us, and that the search for the path's MTU tries."""
DATAGRAM_BYTES_FLOOR: Final = 1_100
"""What packets shrink to where the path does not carry the protocol's size (E21)."""
PATH_MTU_PROBES_MAX: Final = 3
"""Probes of one size that must be lost before it counts as too large (RFC 8899, MAX_PROBES)."""
PATH_MTU_RAISE_US: Final = 600_000_000
"""When to look again whether more fits (RFC 8899, PMTU_RAISE_TIMER), and when a reference peer, which takes no probes, gets
packets of the protocol's size again."""
PATH_MTU_RETRY_US: Final = 60_000_000
"""The same after packets had vanished for their size."""
PATH_MTU_BLACK_HOLE_LOSSES: Final = 10
"""Packets larger than the floor that must be lost in a row before the path counts as narrower,"""
PATH_MTU_BLACK_HOLE_US: Final = 500_000
"""and for how long none may have arrived."""
DATAGRAM_BYTES_MIN: Final = 5
"""Shorter datagrams are ignored whatever they begin with."""
PADDED_BYTES_MIN: Final = 512
"""Requests that ask a stranger for an answer are at least this long, so that no answer is larger."""

MESSAGE_BYTES_MAX: Final = 524_288
"""Largest message a user may send."""
REFERENCE_MESSAGE_BYTES_MAX: Final = 524_283
"""Largest session message a reference peer takes: its limit less our five header bytes (G18)."""
STREAM_MESSAGE_BYTES_MAX: Final = 524_304
"""Largest message accepted inside a reliable stream, session header included (G18)."""
UNRELIABLE_SEND_BYTES_MAX: Final = 16_500
"""A larger unreliable message is sent reliably, as the reference does."""
UNRELIABLE_RECV_BYTES_MAX: Final = 26_000
"""An unreliable segment beyond this offset is ignored."""
UNRELIABLE_SEGMENT_BYTES_MAX: Final = 1300
"""A larger unreliable segment is ignored."""
UNRELIABLE_STORE_BYTES_MAX: Final = 262_144
"""Pieces of unfinished unreliable messages kept per lane; actual bytes, never claimed ones (E8)."""
UNRELIABLE_STORE_SEGMENTS_MAX: Final = 256
"""Pieces of unfinished unreliable messages kept per lane (E8); the reference keeps 20 (G23)."""
UNRELIABLE_STORE_AGE_US: Final = 5_000_000
"""An unfinished unreliable message older than this is given up (G23)."""

STREAM_SPAN_MAX: Final = 1_048_576 - 16_384
"""Stream bytes sent while the peer misses some: what his default receive buffer holds from the first unfinished message on."""
LANES_SEND_MAX: Final = 8
"""Lanes we send on: 0..7, since a reference sender and its logs break above (G1)."""
LANES_RECV_MAX: Final = 256
"""Lanes a peer may use: 0..255 on the wire."""
RELIABLE_GAPS_MAX: Final = 1_024
"""Holes kept in one reliable stream (E8); the reference keeps 30 when appending, 20 when splitting."""
ACK_GAPS_MAX: Final = 62
"""Runs of received packets kept for reporting, and so blocks in one ack frame (E13)."""
REPLAY_RANGES_MAX: Final = 1024
"""Runs of accepted packet numbers kept; the oldest run goes first and raises the floor (E6, E13)."""
REPLAY_REACH_PACKETS: Final = 8_192
"""How far below the highest packet number a late packet is still taken; a multiple of 64, counted from a block of 64 (E6)."""
PACKET_NUMBER_JUMP_MAX: Final = 0x7F00
"""A packet number further ahead than this ends the connection with 5001 (E13): the 16 bits sent would not tell one turn from the
next. The reference ends it at half of that; a process that was not scheduled for a second loses as many packets."""
PACKET_NUMBER_MAX: Final = 1 << 48
"""The connection ends long before a nonce could repeat (C6)."""
SEGMENTS_PER_PACKET_MAX: Final = 1300
"""More segments in one packet are not looked at (RecvMaxSegmentsPerPacket, 50; E9)."""
MESSAGE_NUMBER_STEP_MAX: Final = 10_000
"""Largest step between message numbers of a lane that a reference peer takes in every case (P7, G26)."""
MESSAGE_CHARGE_BYTES_MIN: Final = 256
"""What an unread message costs of the receive buffer at least: its bookkeeping (M1)."""

BLOB_CHUNK_BYTES: Final = 32_768
"""Data in one message of a blob: large enough that headers count for nothing, small beside every buffer."""
BLOB_WINDOW_BYTES: Final = 524_288
"""Data of a blob sent ahead of what the receiving program has taken: half of what it may leave unread, the rest being for other
channels."""
BLOB_BYTES_IN_MEMORY_MAX: Final = 67_108_864
"""Largest blob received into memory, unless the program says otherwise."""
BLOB_NAME_BYTES_MAX: Final = 255
"""Longest name of a blob, like that of a file."""
BLOB_OFFERS_MAX: Final = 64
"""Offers of blobs kept for a program that takes up one after the other; the oldest gives way, and its sender waits in vain."""
BLOB_FINISHED_MAX: Final = 64
"""Blobs whose end is told once more to a sender who asks because the word was lost."""
BLOB_RETRY_US: Final = 250_000
"""Pause before a blob looks for its receiver again after their session broke."""

PACKETS_IN_FLIGHT_MAX: Final = 7_999
"""Packets neither acknowledged nor given up, fewer than 8 000; a reference peer's 16-bit numbers break at 32768 (P2). Data waits
then; answers go on, and the oldest packet is given up for each (E12, E14)."""
PACKET_REPORT_AGE_US: Final = 60_000_000
"""A packet nobody reported on for this long, several times what any path takes, is given up; so a peer who talks and never
acknowledges costs a minute's record of packets, not an hour's (E12)."""
PACKETS_UNREPORTED_MAX: Final = 1 << 19
"""Span of packet numbers a peer may have us report on at once; one that never gives up on old packets is ended (E10, E13)."""
LOST_PACKETS_KEPT: Final = 640
"""Packets reported missing that a late report may still confirm (E10); more would double the table that finds them."""
BURST_PACKETS: Final = 16
"""Small messages are sent once they fill this many packets, or when the oldest has waited for `nagle_us`: one call carries them
all."""
BURST_BYTES_MAX: Final = BURST_PACKETS * DATAGRAM_BYTES_MAX
"""The same in bytes, where packets are larger."""
PACKETS_PER_TRANSMIT_MAX: Final = 44
"""Packets handed to the socket at once: one UDP_SEGMENT call of at most 65507 bytes."""

ACK_DELAY_US: Final = 50_000
"""Reliable data is acknowledged within this time (the reference's promise, and what its senders expect)."""
ACK_DELAY_OWN_PEER_US: Final = 10_000
"""The same toward our own peers, whose senders pace by acknowledgements."""
ACK_EVERY_PACKETS: Final = 64
"""Packets with reliable data after which an acknowledgement goes at once."""
NACK_DELAY_US: Final = 3_000
"""How long a missing packet may merely be late, at first."""
NACK_DELAY_MAX_US: Final = 25_000
"""The same where packets were seen to overtake each other."""
ANSWER_INTERVAL_MIN_US: Final = 1_000
ANSWER_INTERVAL_MAX_US: Final = 10_000
"""Between two answers given at once because the peer, or somebody on the path, asked for them: a quarter of the round trip within
these bounds (E14, G19). A sender whose window is full asks twice a round trip and must not wait; above the upper bound an
ordinary acknowledgement would be due anyway."""
CONTROL_REPLIES_MAX: Final = 16
"""Packets outside the encryption that one connection wants to send; the newest win (E14)."""

MESSAGE_HEADROOM_BYTES: Final = 16
"""A send buffer holds one message of its size with the header of the messages layer."""
CONNECT_OK_INTERVAL_US: Final = 100_000
"""Between two repeats of a ConnectOK for one client (E14)."""
CONNECT_RETRY_US: Final = 500_000
"""Between two challenge requests."""
BAD_ANSWERS_MAX: Final = 3
"""The same failing answer in so many retry intervals is what the server says, and not damage on the way (E22)."""
CHALLENGE_TICK_US: Final = 1 << 20
"""Unit of the coarse time inside a challenge."""
CHALLENGE_TICKS_MAX: Final = 3
"""A challenge is good for 3 to 4 ticks."""
CLAIM_WAIT_US: Final = 250_000
CLAIM_WAIT_OWN_PEER_US: Final = 2_000_000
"""How long an unauthenticated close of a live connection must stay uncontradicted; own peers say goodbye inside the encryption,
so that from them it means little (E16)."""
CLAIM_WAIT_SIGNALED_US: Final = 2_000_000
"""The same where no packet can go and only a signal may contradict: on a local network everybody sees the ids of a call, and
could end it (E16)."""
GOODBYE_WAIT_US: Final = 250_000
"""How long at least unreliable messages count that were sent before the peer's goodbye and come after it: a round trip of nearly
any path. A goodbye goes by signal as well, which may be faster."""
PIECE_CHARGE_BYTES: Final = 128
"""What a piece kept by itself costs beside its bytes (E8)."""
KEEPALIVE_US: Final = 10_000_000
"""Silence after which the peer is asked for a sign of life."""
KEEPALIVE_DIALER_US: Final = 11_000_000
"""The same on the side that dialed: of two silent sides one asks, or each exchange would happen twice. It is the called side,
which may have thousands of them and asks all whose time has come together."""
KEEPALIVE_SLOT_US: Final = 100_000
"""Questions to silent peers wait for the end of such a slot, so that thousands of idle sessions wake a program ten times a second
rather than a thousand times."""
URGENT_PING_US: Final = 200_000
"""Between two such questions while answers are missing."""
REPLY_TIMEOUT_MAX_US: Final = 1_250_000
REPLY_TIMEOUT_MARGIN_US: Final = 250_000
REPLY_TIMEOUT_DELAYED_US: Final = 200_000
REPLY_FAILURES_MIN: Final = 4
"""Unanswered questions before silence can end a connection."""
FIN_WAIT_US: Final = 5_000_000
"""How long an ended connection still answers its peer."""
NO_CONNECTION_INTERVAL_US: Final = 250_000
"""Between two unauthenticated answers to strangers, in all (E14)."""
REDIAL_QUIET_US: Final = 26_000_000
"""A reference server may hold an old connection of a local port this long; until then a new dial takes a fresh port."""

STRANGER_REPLIES_MAX: Final = 64
"""Answers to strangers that wait to be sent; the newest win (E14)."""
CLOSE_DEBUG_BYTES_MAX: Final = 127
"""Text sent and kept with a close."""
CLOSE_REPLIES_MAX: Final = 64
"""Answers an ended connection gives its peer before it falls silent (E14)."""

SIGNAL_BYTES_MAX: Final = 16_384
"""A larger signal is not looked at; ours have a few hundred bytes, the reference's with many candidates a few thousand."""
SIGNAL_RELIABLE_MAX: Final = 64
"""Candidates and passwords in one signal, either way: twice the candidates kept of one peer (I2)."""
SIGNAL_RELIABLE_BYTES_MAX: Final = 4_096
"""What they may take of a signal we send; the rest follows once these are acknowledged (D25)."""
SIGNAL_RELIABLE_QUEUED_MAX: Final = 256
"""Entries of ours that a peer has not acknowledged; more are refused, since whoever acknowledges nothing cannot be reached."""
SIGNAL_CANDIDATE_BYTES_MAX: Final = 512
"""A longer candidate makes its signal malformed (I5); real ones have about 70 bytes."""
SIGNAL_PASSWORD_BYTES_MAX: Final = 256
"""The longest password that ICE knows (RFC 8839, ice-pwd)."""
SIGNAL_GOODBYE_BYTES_MAX: Final = 1_300
"""The longest packet that fits into a close; the protocol's own size."""
SIGNAL_APPLICATION_MESSAGES_MAX: Final = 64
"""Messages of applications in one signal; the reference sends none."""
SIGNAL_REPEAT_US: Final = 1_000_000
"""An entry that is not acknowledged goes again this long after it was last sent; the reference does the same."""
SIGNALING_RECONNECT_MIN_US: Final = 200_000
SIGNALING_RECONNECT_MAX_US: Final = 10_000_000
"""How long a client of a signaling service waits before it connects again; drawn anew each time, so that a service that comes
back is not met by all its clients at once (S7)."""
SIGNALING_STEADY_US: Final = 10_000_000
"""A connection to a service that held this long counts as good, and the next wait is short again; two clients that take one name
from each other never get there."""
SIGNALING_CONNECT_TIMEOUT_US: Final = 5_000_000
"""How long one address of a service may take to answer."""
SIGNALING_UNACKNOWLEDGED_US: Final = 3_000_000
"""How long what we sent to a service may stay unacknowledged before we connect anew, where the system lets us say so: after a
change of network nobody tells a TCP connection that it is dead, and on a bad line its own repeats become ever rarer."""
SIGNALING_UNSENT_MAX: Final = 32
"""Signals that wait for the connection to the service; the oldest gives way, as in the reference's client, since what matters in
it is repeated."""
SIGNAL_LINE_BYTES_MAX: Final = 16_640
"""Longest line of the reference's signaling protocol: 8 KiB in hexadecimal and a name; longer ones are skipped (S4)."""
LINE_SERVER_CLIENTS_MAX: Final = 1_024
"""Connections of the line server; more are closed at once (S9)."""
LINE_SERVER_GREETING_US: Final = 5_000_000
"""A connection that has not said its name after this time is closed (S4)."""
LINE_SERVER_UNSENT_BYTES_MAX: Final = 65_536
"""Bytes that wait for one client of the line server, fifty usual signals; who reads that slowly is cut off (S4)."""
IN_PROCESS_SIGNALS_MAX: Final = 4_096
"""Signals on their way between services of one process; more are lost, as on any service."""
GODOT_NAMES_MAX: Final = 65_536
"""Names that a GodotSteam script may register, of identities and of addresses each: more than any game has players."""

RTO_MIN_US: Final = 30_000
RTO_MAX_US: Final = 2_000_000
RTO_INITIAL_US: Final = 1_000_000
"""Retransmission time-out: RFC 6298 with a granularity of 1 ms and these bounds."""

ICE_CANDIDATE_BYTES_MAX: Final = 512
"""Longest text of a candidate that is read (I5)."""
ICE_REMOTE_CANDIDATES_MAX: Final = 32
"""Addresses of one peer (I2); what failed gives way to what is new, and what the peer sends from comes first."""
ICE_PAIRS_MAX: Final = 100
"""Bases of ours times addresses of the peer (I2)."""
ICE_HOSTS_MAX: Final = 256
"""Hosts that a peer may have had us send checks to in vain; beyond these only hosts that answered get any (I2)."""
ICE_UNANSWERED_PACKETS_MAX: Final = 160
"""Checks sent to one host that does not answer: with 92 bytes each less than 16 KiB (I2)."""
ICE_KNOWN_HOST_CHECK_US: Final = 60_000_000
"""Beyond that, a host that once was the peer's still gets a check a minute: it may come back."""
ICE_BUDGETS_KEPT_US: Final = 600_000_000
"""All calls of one peer within this time share what he may have us send to hosts that do not answer: whoever calls again and
again gets no more than who calls once (I2)."""
ICE_BUDGETS_KEPT_MAX: Final = 4_096
"""Peers of whom that is remembered; of more, those who came last."""
ICE_BUDGET_RENEW_US: Final = 60_000_000
"""How often a change of our own network lets all hosts be checked anew."""
ICE_CHECK_INTERVAL_US: Final = 20_000
"""Between two checks of one agent (I2; Ta of RFC 8445 is 50 ms, and 5 ms is the least it allows)."""
ICE_CHECK_SENDS_MAX: Final = 5
"""How often a check is sent before its pair counts as failed (I2),"""
ICE_RETRY_SENDS_MAX: Final = 2
"""and in a later round."""
ICE_RTO_INITIAL_US: Final = 200_000
"""First wait for an answer while the round trip is unknown. RFC 8445 wants 500 ms; translators tend to lose the first packet."""
ICE_RTO_MIN_US: Final = 100_000
ICE_RTO_MAX_US: Final = 2_000_000
"""Bounds of that wait, which doubles with each repeat."""
ICE_PROBE_LIFETIME_US: Final = 5_000_000
"""How long the answer to a check that is not repeated still counts."""
ICE_RETRY_US: Final = 3_000_000
ICE_RETRY_MAX_US: Final = 10_000_000
"""Until a failed pair is checked again while nothing better works: a quarter longer each time."""
ICE_FRESH_US: Final = 20_000_000
"""A pair that answered within this time need not be checked because the peer checks it."""
ICE_CONSENT_MIN_US: Final = 4_000_000
ICE_CONSENT_MAX_US: Final = 6_000_000
"""Between two checks of the pair in use, drawn anew each time (RFC 7675; I3)."""
ICE_CONSENT_EXPIRY_US: Final = 30_000_000
"""No data goes where nothing authentic came from for this long (RFC 7675; I3)."""
ICE_PROBE_INTERVAL_US: Final = 150_000
"""Between two checks of the pair in use while it is suspected,"""
ICE_PROBE_SLOW_US: Final = 1_000_000
"""and once it counts as failing."""
ICE_PATIENCE_MARGIN_US: Final = 400_000
ICE_PATIENCE_MIN_US: Final = 600_000
ICE_PATIENCE_MAX_US: Final = 1_500_000
"""How long it may leave them unanswered: three round trips and the margin, within these bounds."""
ICE_SPARE_INTERVAL_US: Final = 15_000_000
"""Between two checks of a stand-in; translators forget a flow after 30 s at the earliest (RFC 4787 wants 2 minutes)."""
ICE_SPARE_PROBES_MAX: Final = 3
"""Unanswered checks after which a stand-in is none any more."""
ICE_PROVE_INTERVAL_US: Final = 500_000
"""Between two checks of a better pair that failed before and answers again."""
ICE_PROVE_US: Final = 2_000_000
ICE_PROVE_MAX_US: Final = 32_000_000
ICE_PROVE_ANSWERS: Final = 3
"""How long it must answer before data goes there again, twice as long after each failure; and how often at least. A flapping link
is left alone."""
ICE_SETTLE_US: Final = 2_000_000
"""After the first pair works, pairs of higher priority take over at once for so long, as both sides agree on them."""
ICE_RTT_GAIN_US: Final = 10_000
ICE_RTT_GAIN_PERCENT: Final = 20
ICE_RTT_SAMPLES: Final = 3
"""Later, another pair of the same kind must be faster by both, on so many samples: more than jitter explains."""
ICE_CONTEST_FIRST_US: Final = 400_000
"""After the first way is found, before ways are compared: relays are up by then, and most pairs are checked."""
ICE_CONTEST_PROBES: Final = 16
ICE_CONTEST_PROBE_US: Final = 120_000
"""Checks of each pair in a comparison, and the pause between two: two seconds, over which bursts of loss and queues even out."""
ICE_CONTEST_WAIT_US: Final = 1_000_000
"""After the last of them, for answers."""
ICE_CONTEST_AGAIN_US: Final = 4_000_000
ICE_CONTEST_EARLY_US: Final = 15_000_000
ICE_CONTEST_INTERVAL_US: Final = 60_000_000
"""From one comparison to the next: while ways may still come up, and later."""
ICE_CONTEST_DIRECT_MAX: Final = 1
ICE_CONTEST_RELAYED_MAX: Final = 4
"""Pairs that are compared with the one in use: at 120 ms and 20 ms between two checks there is room for six."""
ICE_CONTEST_LOSS_US: Final = 200_000
"""What a lost packet costs beside the round trips it takes to send it again: a receiver notices late."""
ICE_CONTEST_EARLY_GAIN_PERCENT: Final = 3
"""While ways may still come up, by how much one must be cheaper than another of its kind."""
ICE_CONTEST_REST_US: Final = 15_000_000
ICE_CONTEST_REST_DOUBLINGS_MAX: Final = 5
"""After a move to a cheaper way, how long until the next one: twice as long each time, so that two ways of changing cost do not
keep a session moving."""
ICE_MOVED_US: Final = 500_000
"""Data that comes by another pair while the one in use has been silent for this long makes us check that one,"""
ICE_MOVED_PAUSE_US: Final = 5_000_000
"""but no more often than this."""
ICE_ANSWERS_WAITING_MAX: Final = 16
"""Answers to checks that wait to be sent; the newest win (E14)."""
ICE_OLD_PASSWORD_US: Final = 10_000_000
"""How long checks with our previous password are still taken after a restart: signaling may be slow."""

STATS_INTERVAL_US: Final = 5_000_000
"""Rates and quality are averaged over this time and then kept for the next one."""
STATS_INSTANT_US: Final = 20_000_000
STATS_INSTANT_FORCED_US: Final = 30_000_000
STATS_LIFETIME_US: Final = 120_000_000
STATS_LIFETIME_FORCED_US: Final = 140_000_000
"""When a report goes to the peer: with traffic, and without."""
PING_ANSWERS_KEPT: Final = 16
"""Answers to `ping_user` that a connection remembers: those of some seconds, for who looks seldom."""
PING_MS_MAX: Final = 2_000
"""A slower sample says more about a stalled process than about the network."""

CONNECTIONS_MAX: Final = 16_384
"""Connections of one endpoint, ended ones that still answer included; the one that ended first gives way to a new one (E25)."""
ENDED_SESSIONS_MAX: Final = 4_096
"""Ended sessions remembered for questions until their idle time; beyond, the oldest is forgotten, as if it were closed (E25)."""
IMPOSTOR_REPEAT_US: Final = 60_000_000
"""How seldom the application hears again of a name that is used with another key than the known one: anybody can make keys."""
IMPOSTORS_KEPT_MAX: Final = 256
"""Of so many such names it is remembered when that was."""
REQUEST_REPEAT_US: Final = 3_000_000
"""Between two announcements of a stranger who keeps asking."""
PENDING_REQUESTS_MAX: Final = 256
"""Strangers waiting to be accepted; the oldest gives way (M4). Of each only the hello is kept, whose fields have limits."""
PENDING_REQUESTS_PER_HOST_MAX: Final = 16
"""Strangers of one IP address waiting to be accepted (E19)."""
ENDED_CONNECTIONS_UNREAD_MAX: Final = 16
"""Ended connections of one peer whose last messages wait for the application; until it reads, he gets no new one (M1)."""
EVENTS_MAX: Final = 1_024
"""Undelivered callbacks kept; per peer the newest state wins."""
CHANNELS_PER_SESSION_MAX: Final = 4_096
"""Channels remembered as open per session; others still carry messages (M2)."""

STUN_ATTRIBUTES_MAX: Final = 64
"""Attributes in one STUN message; honest ones have a dozen (I6)."""
STUN_ANSWER_BYTES_MAX: Final = 576
"""A longer answer of a STUN or TURN server is dropped: every path carries what they have to say in this (I6)."""
STUN_ATTEMPTS_MAX: Final = 5
"""How often one request is sent (I6)."""
STUN_RTO_US: Final = 250_000
"""Until the first repetition of a request; twice as long for each further one. With the attempts above a silent server is given
up after 5.75 s."""
STUN_RTO_MAX_US: Final = 2_000_000
STUN_STREAM_ANSWER_US: Final = 5_000_000
"""What a server on a byte stream has for an answer; nothing is repeated there."""
STUN_KEEPALIVE_US: Final = 15_000_000
"""Between two questions for our mapped address; NATs forget mappings after 30 s and more (RFC 4787 REQ-5 is two minutes)."""
STUN_REDIRECTS_MAX: Final = 1
"""How often a server may send us to another one, if that is allowed at all (I6)."""

TURN_AUTH_ROUNDS_MAX: Final = 3
"""Credentials computed anew for one request, whatever nonces the server asks for (I6)."""
TURN_ALLOCATE_ROUNDS_MAX: Final = 3
"""Other forms of an Allocate request tried because of the server's answer: another family, after releasing a forgotten one."""
TURN_REFRESH_INTERVAL_US: Final = 1_000_000
"""Allocations are refreshed at half of their lifetime, but not more often than this."""
TURN_LIFETIME_S_MAX: Final = 3_600
"""A longer lifetime is not believed."""
TURN_PERMISSION_REFRESH_US: Final = 120_000_000
"""Between two refreshes of permissions, which last 300 s (RFC 8656 §9): one may be lost."""
TURN_PERMISSION_UNUSED_US: Final = 300_000_000
"""A permission nobody used for this long is not refreshed any more."""
TURN_PERMISSION_ADDRESSES_MAX: Final = 10
"""Addresses in one CreatePermission request, as in the reference."""
TURN_CHANNEL_REFRESH_US: Final = 240_000_000
"""Between two bindings of the same channel, which last 600 s (RFC 8656 §12): one may be lost."""
TURN_CHANNEL_REST_US: Final = 1_200_000_000
"""How long a channel number is not given to another peer: the binding's 600 s, and as long again (RFC 8656 §12 wants 300 s)."""
TURN_PEERS_MAX: Final = 1_024
"""Addresses one allocation deals with; the one unused for longest gives way."""
TURN_CHANNELS_MAX: Final = 512
"""Channels of one allocation; other peers get Send indications, 36 bytes longer."""
TURN_RELEASE_US: Final = 2_000_000
"""How long the release of an allocation may take before it is left to its lifetime."""

ICE_SERVERS_MAX: Final = 8
"""STUN servers, and again TURN servers, that may be configured."""
ICE_SERVER_ADDRESSES_MAX: Final = 4
"""Addresses used of those a server's name resolves to (I9)."""
NAME_RESOLUTION_US: Final = 3_000_000
"""What the resolution of a server's name may take (I9)."""
SERVER_RETRY_US: Final = 10_000_000
SERVER_RETRY_MAX_US: Final = 120_000_000
"""When a server that failed, or whose name did not resolve, is tried again: twice as long each time, up to the maximum."""
GATHERING_US_MAX: Final = 6_000_000
"""Gathering counts as done after this time; what is found later is announced all the same (I6)."""
HOST_SOCKETS_MAX: Final = 16
"""Local addresses that get a socket."""
SOCKET_RETRIES_MAX: Final = 5
SOCKET_RETRY_US: Final = 500_000
"""A socket that could not be opened is tried again, for a new IPv6 address cannot be bound for its first second or two; twice as
long each time."""
RELAYS_PER_FAMILY_MAX: Final = 2
"""Relayed addresses announced of each family; further allocations are released."""
RELAY_MAP_BYTES_MAX: Final = 65_536
"""A longer relay map is not read; one of 64 places with their servers has 20 kB."""
RELAY_POPS_MAX: Final = 64
"""Places in a relay map: somebody who has got hold of a server's clients could have them ask so many hosts."""
RELAY_SERVERS_PER_POP_MAX: Final = 8
"""Servers of one place: STUN, TURN by UDP, TCP and TLS, of two machines."""
RELAY_NAME_LETTERS_MAX: Final = 64
"""Of the name of a place, which user interfaces show."""
RELAY_CREDENTIAL_BYTES_MAX: Final = 512
"""User name or password in a ticket: a name of 128 bytes behind its end, and room for other makers of tickets."""
RELAY_TICKET_S: Final = 3_600
"""How long a ticket holds that our server makes: one that leaks opens a relay for an hour (R2)."""
RELAY_TICKET_S_MAX: Final = 86_400
"""The longest life a client believes in; renewals come at half of it."""
PING_LOCATION_BYTES_MAX: Final = 512
"""Text of a ping location in a signal; 40 places fit (the reference leaves room for 1024)."""
PING_LOCATION_MS_MAX: Final = 9_999
"""A ping that is longer is of no use to anybody."""
RELAY_PING_SAMPLES: Final = 5
"""Questions to each place in one round: the smallest of five is within a few per cent of the true ping on a line in use."""
RELAY_PING_INTERVAL_US: Final = 60_000
"""Between two of them, longer than most bursts of other traffic."""
RELAY_PING_STAGGER_US: Final = 2_000
"""Between the first questions to two places: 64 of them in one burst would queue behind each other on a slow line."""
RELAY_PING_WAIT_US: Final = 1_000_000
"""After the last question, for answers."""
RELAY_PING_LOOK_US: Final = 250_000
"""After the first answer, before places are chosen although others have not answered: these are at least so much farther."""
RELAY_PING_NEAREST: Final = 8
"""Places that are asked again in later rounds (SDRClient_LimitPingProbesToNearestN, 60)."""
RELAY_PING_AGE_US: Final = 300_000_000
"""When pings are measured anew while somebody needs them."""
RELAY_PING_RETRY_US: Final = 30_000_000
"""After a round that nobody answered, unless the network changes."""
RELAY_PING_MAP_US: Final = 10_000_000
"""From the beginning of a round that another map broke off to the next one: a server whose map changes all the time has its
clients ask no more hosts than one with another map every ten seconds."""
RELAY_PING_IDLE_US: Final = 600_000_000
"""How long after the last use they are kept up to date."""
RELAY_POPS_NEAREST: Final = 2
"""Places that relays are had at in any case: one may die."""
RELAY_POPS_USED_MAX: Final = 5
"""Places that relays are had at, for all peers together; each costs an allocation on both sides."""
RELAY_PEER_MOVE_US: Final = 60_000_000
RELAY_PEER_MOVES_BURST: Final = 4
"""How often a peer may say that he is elsewhere: pings are measured in five minutes and when a network changes, and each time may
cost an allocation at relays."""
RELAY_POP_KEEP_GAIN_US: Final = 10_000
RELAY_POP_KEEP_GAIN_PERCENT: Final = 20
"""A place in use gives way to one that is nearer by more than chance explains."""
PORT_MAPPING_ATTEMPTS_MAX: Final = 3
"""How often a router is asked in one protocol before the next one is tried."""
PORT_MAPPING_LIFETIME_S: Final = 1_200
"""Lifetime asked for: a router that restarted knows of us again within half of it."""
PORT_MAPPING_RENEW_US_MIN: Final = 10_000_000
"""Between two renewals, whatever lifetime a router grants."""
PORT_MAPPING_RELEASE_US: Final = 2_000_000
"""How long giving a port back may take."""
UPNP_SEARCH_US: Final = 3_000_000
"""How long routers have to answer a search; they wait up to a second on purpose."""
UPNP_ANSWER_US: Final = 5_000_000
"""How long one exchange with a router may take."""
UPNP_ANSWER_BYTES_MAX: Final = 65_536
"""Longest description or answer that is read."""
UPNP_PORTS_MAX: Final = 3
"""External ports tried when others have taken them."""

STREAM_OPEN_US: Final = 5_000_000
"""What the connection to a TURN server by TCP or TLS may take."""
RELAY_ATTEMPTS_MAX: Final = 16
"""Allocations under way at once,"""
RELAY_ATTEMPTS_PER_SERVER_MAX: Final = 4
"""and of these at one server, which may limit what one user has."""

SIGNAL_REQUEST_RETRY_US: Final = 500_000
"""Between two connect requests that nobody answered (the reference's figure), and between two answers that nobody heard,"""
SIGNAL_REQUEST_QUICK_US: Final = 250_000
SIGNAL_REQUESTS_QUICK: Final = 12
"""but that many requests go at this distance at first, since everything else waits for the first that arrives (S8)."""
SIGNAL_DISTANCE_US: Final = 10_000
"""Least distance of two signals of one connection, so that candidates found together travel together (100 ms there)."""
SIGNAL_ACK_US: Final = 10_000
"""How long the acknowledgement of a signal may wait for company."""
SIGNAL_CLOSE_REPEATS_US: Final = (500_000, 1_000_000, 2_000_000)
"""Waits before a close that nobody confirmed is said again; within the 5 s in which ended connections answer."""
SIGNAL_OLD_RUN_US: Final = 80_000
"""How long a connect request waits for the peer to confirm that the connections of our earlier run are over: a reference peer
drops a request that comes before it has dealt with that, and hears the next one half a second later."""
SIGNAL_TELL_AGAIN_US: Final = 3_000_000
SIGNAL_TELL_AGAIN_MAX_US: Final = 24_000_000
"""How long after everything was said, and taken, a call without any way says its password and candidates once more, doubled each
time: a service may have changed an address on the way, and nobody else would notice. Toward default time-outs that is twice."""
SIGNAL_DENIALS_PER_S: Final = 10
SIGNAL_DENIALS_BURST: Final = 20
"""Answers by signal to somebody whose request nobody will see, or who speaks of a connection that is not ours: to one name, as
much as a service carries (S3),"""
SIGNAL_DENIALS_ALL_PER_S: Final = 50
SIGNAL_DENIALS_ALL_BURST: Final = 100
"""and to all of them: requests by signal cost whoever makes them up nothing."""
SIGNAL_DENIAL_KEYS_MAX: Final = 1_024
"""Names that are counted one by one."""
REMEMBERED_CALLS_MAX: Final = 1_024
"""Calls of one endpoint that its next run will know of."""
KNOWN_PEERS_LOOK_US: Final = 1_000_000
"""How often a program looks whether people have changed the file of known peers."""
REMEMBERED_PER_PEER_MAX: Final = 4
"""Of these with one peer; the newest. A reference peer holds one connection with us."""
REMEMBERED_FILES_MAX: Final = 64
"""Files of earlier runs that are looked at, so that the start takes no longer where something fills the folder."""
REMEMBERED_FILE_BYTES_MAX: Final = 262_144
"""What is read of such a file, and how long ours may grow before it is written anew; an entry has some 50 bytes, at most 400."""
KEY_FILE_BYTES_MAX: Final = 8_192
"""A key file that is longer is none; ours have 119 bytes, and people may write comments above the key."""
KEY_FILES_DEFAULT_MAX: Final = 16
"""Programs of one user that run at once without a name, each with a key of its own."""
KEY_FILES_LISTED_MAX: Final = 1_024
"""Key files that are looked at when one is searched for by its key, or all are listed."""
KNOWN_PEERS_MAX: Final = 10_000
"""Peers whose keys are remembered; more than anybody meets by hand, and read in a tenth of a second. Later ones come as strangers
each time."""
KNOWN_PEERS_FILE_BYTES_MAX: Final = 4_194_304
"""A file of known peers that is longer is refused: a line has some 90 bytes, and comments come on top."""
KNOWN_PEERS_LINE_BYTES_MAX: Final = 1_024
"""Longest line of it: 127 bytes of identity, each written as three, and a remark."""
KNOWN_PEERS_PROBLEMS_MAX: Final = 20
"""Lines of it that are named because they cannot be read; with so many it is no file of known peers."""
KNOWN_PEERS_LOCK_US: Final = 1_000_000
"""How long to wait for another program that writes it: that takes a millisecond, unless the program was stopped meanwhile."""
SIGNALS_QUEUED_MAX: Final = 1_024
"""Signals that wait for the driver; the newest win. As many entries of a caller are kept until the application accepts him."""
ICE_TRANSACTIONS_KEPT: Final = 16_384
"""Checks whose answer may still come, all calls together; the oldest give way."""

SESSION_IDLE_US: Final = 180_000_000
LOG_INTERVAL_US: Final = 1_000_000
"""One log line per kind and second (E15)."""

STREAM_CONNECT_US: Final = 5_000_000
"""How long a TCP connection may take to come up, TLS included: three tries of the system's (at 0, 1 and 3 s)."""
STREAM_QUEUE_BYTES_MAX: Final = 262_144
"""Bytes that wait for the network in one stream; beyond, the newest packets are dropped, as on any full link."""
NAMES_WAITING_MAX: Final = 64
"""Host names looked up at once; more are answered with nothing."""
NAME_LOOKUP_US: Final = 3_000_000
"""How long a host name may take: two tries of most resolvers that answer at all."""
NAME_THREADS_MAX: Final = 2
"""Host names looked up side by side, so that one dead name server does not hold up all others."""
INTERFACES_SETTLE_US: Final = 100_000
"""After a sign of change, how long before this machine's addresses are listed: changes come in bursts."""
INTERFACES_POLL_US: Final = 2_000_000
"""How often they are listed where the system gives no sign."""
SIGNALS_WAITING_MAX: Final = 256
"""Signals that wait for the driver's next turn; more are dropped, as signaling may (E14)."""
CARRIED_BYTES_MAX: Final = 8_192
"""Largest signal that our signaling services carry; a rendezvous message with its candidates is 300 to 3000 bytes (S3)."""
SIGNALS_PAIR_PER_S: Final = 10
SIGNALS_PAIR_BURST: Final = 20
"""From one sender to one receiver (S3). A connection sends one signal per 100 ms at most; the burst lets candidates trickle."""
SIGNALS_SENDER_PER_S: Final = 50
SIGNALS_SENDER_BURST: Final = 100
"""From one sender to all (S3); the burst is for a program that calls everybody it knows at its start."""
SIGNALS_HOST_PAIR_PER_S: Final = 50
SIGNALS_HOST_PAIR_BURST: Final = 100
"""From all identities of one address to one receiver: identities cost nothing, addresses do (S3)."""
SIGNALS_VICTIM_PER_S: Final = 200
SIGNALS_VICTIM_BURST: Final = 400
"""To one receiver from all (S3)."""
SIGNAL_RATE_KEYS_MAX: Final = 65_536
"""Pairs, senders and receivers whose rate is watched at a time; a bucket that is full is forgotten (S9)."""

LAN_PORT: Final = 24_717
"""UDP port of the local network's signals; outside the ranges from which systems take ports for clients."""
LAN_GROUP_4: Final = "239.255.80.71"
"""IPv4 group: administratively scoped, never routed beyond the site (RFC 2365)."""
LAN_GROUP_6: Final = "ff12::8050:474c"
"""IPv6 group: of the link, not assigned by IANA (RFC 4291, RFC 3307)."""
LAN_DATAGRAM_BYTES_MAX: Final = 1_200
"""UDP payload of one piece: below the smallest MTU of IPv6, so that no fragment of IP is ever needed."""
LAN_PIECES_MAX: Final = 9
"""Pieces of one signal: 8 KiB with the longest names."""
LAN_INTERFACES_MAX: Final = 16
"""Interfaces that multicast is sent to and received from, loopback first; Linux allows 20 groups per socket."""
LAN_MULTICAST_INTERVAL_US: Final = 1_000_000
"""How often a peer with a known socket is called by multicast all the same: his socket may be old, or not his."""
LAN_PLACE_US: Final = 60_000_000
"""How long the socket somebody was heard from counts as his."""
LAN_PEERS_KEPT: Final = 1_024
"""Peers whose sockets are remembered, and senders whose rate is watched."""
LAN_COPIES_KEPT: Final = 1_024
"""Signals remembered to tell their copies, a second's worth at twice the rate that is taken."""
LAN_HOST_PER_S: Final = 100
LAN_HOST_BURST: Final = 200
"""Signals taken from one address."""
LAN_TOTAL_PER_S: Final = 500
LAN_TOTAL_BURST: Final = 1_000
"""Signals taken from everybody: a few per cent of a processor."""
LAN_UNFINISHED_MAX: Final = 64
LAN_UNFINISHED_PER_HOST_MAX: Final = 8
"""Signals of which pieces are missing: half a megabyte at most."""
LAN_UNFINISHED_US: Final = 1_000_000
"""How long pieces wait for the others, which were sent at once."""
LAN_LOOK_INTERVAL_US: Final = 10_000_000
"""How often the interfaces of this machine are looked at where the system tells nothing of changes, and in any case."""
LAN_LOOK_SETTLED_US: Final = 100_000
"""How long after a change: the addresses of a new interface follow it."""

LEAF_CERTIFICATE_BYTES_MAX: Final = 640
"""Longest certificate that an authority of ours issues to a peer: a hello carries it with its signature in one packet of 1300
bytes, beside 400 bytes of its own."""
CERTIFICATE_AHEAD_S_MAX: Final = 86_400
"""How far in the future a certificate may have been made, by our clock: clocks are off by a time zone now and then (C4)."""
AUTHORITY_FILE_BYTES_MAX: Final = 1_048_576
"""A longer file of authorities, certificates or keys is none; it has room for 20 000 revoked keys."""
AUTHORITY_FILE_PROBLEMS_MAX: Final = 5
"""Lines of it that are named because they cannot be read; for the others a number will do."""
AUTHORITY_CHAIN_MAX: Final = 8
"""Certificates between a root and a leaf; nobody needs so many, and the search for a trusted chain is bounded by it (C10)."""

SERVE_PORT: Final = 27_180
"""TCP port of `peergram serve` where none is named."""
STUN_PORT: Final = 3_478
"""UDP port of its answers to STUN binding requests (RFC 8489)."""
TURN_TLS_PORT: Final = 5_349
"""Where relays are reached by TLS as a rule; ours at its other port, too."""
SERVER_URL_BYTES_MAX: Final = 512
"""Longest address of a server: a host name has at most 253."""
SERVER_URLS_MAX: Final = 16
"""Servers that one client knows; the nodes of a larger fleet share names in DNS, or a balancer."""
REFUSAL_TEXT_BYTES_MAX: Final = 200
"""Of the sentence with which a server hangs up."""
SERVER_CLIENTS_MAX: Final = 20_000
"""Connections of one server; beyond, one that has not logged in gives way, or the new one is refused (S9)."""
SERVER_CLIENTS_PER_HOST_MAX: Final = 1_000
"""Connections of one address, a house or a school; loopback is exempt, where a web server in front may speak for all (S9)."""
SERVER_PENDING_MAX: Final = 4_096
"""Connections that have not logged in; the oldest gives way (S4)."""
SERVER_LOGIN_US: Final = 5_000_000
"""From accepting a connection to its login, TLS included (S4)."""
SERVER_QUIET_US: Final = 30_000_000
"""Silence after which a client is asked for a sign of life, and again until it is cut (S4)."""
SERVER_QUIET_SLOT_US: Final = 1_000_000
"""Silent clients are asked together at the end of such a slot, so that ten thousand of them wake the server once a second."""
SERVER_NOBODIES: Final = 32
"""Connections of the server to itself, for what is sent to those who are not here: so many that they are about as rarely in use
as a client's, and take as long (S6)."""
SERVER_HEADER_BYTES_MAX: Final = 8_192
"""Of an HTTP request with all its headers (S4)."""
SERVER_UNSENT_BYTES_MAX: Final = 262_144
"""Bytes that wait for one client; who reads that slowly is cut (S4)."""
SERVER_UNSENT_TOTAL_BYTES_MAX: Final = 33_554_432
"""The same for all clients together: beyond, those with the most are cut. 500 that never read would hold 128 MiB (S4)."""
SERVER_SOCKET_BUFFER_BYTES: Final = 65_536
"""Of each connection in the kernel, either way: a signal is small, and what a reader leaves there is memory, too."""
SERVER_TLS_BUFFER_BYTES: Final = 16_384
"""What a TLS connection of the server reads into: one record of TLS. asyncio's own measure is 256 KiB for each from the start, so
that connections that have not logged in would take a gigabyte (S4)."""
SERVER_FRAMES_PER_S: Final = 200
SERVER_FRAMES_BURST: Final = 1_000
"""Frames of any kind from one client; who sends more is cut, since reading costs as much as carrying (S3)."""
SERVER_LOGINS_PER_S: Final = 300
SERVER_LOGINS_BURST: Final = 100
"""Logins in all, at most 400 in any second: each costs a signature check. The others are told to come back later (S7)."""
SERVER_LOGINS_PER_HOST_PER_S: Final = 20
SERVER_LOGINS_PER_HOST_BURST: Final = 100
"""Logins from one address; loopback is exempt (S1)."""
SERVER_LOGINS_PER_NAME_PER_S: Final = 1
SERVER_LOGINS_PER_NAME_BURST: Final = 20
"""Good logins with one identity: two clients that throw each other out again and again, against the protocol, get no further."""
SERVER_HOSTS_WATCHED_MAX: Final = 65_536
"""Addresses whose logins are counted (S9)."""
SERVER_NAMES_MAX: Final = 100_000
"""Names that are kept for the key that claimed them; beyond, only known names and keys log in (S9)."""
SERVER_NAMES_PER_HOST_PER_S: Final = 1
SERVER_NAMES_PER_HOST_BURST: Final = 100
"""New names from one address; loopback is exempt (S9)."""
SERVER_NAME_PROVEN_US: Final = 600_000_000
SERVER_NAME_KEPT_US: Final = 2_592_000_000_000
SERVER_NAME_KEPT_SHORT_US: Final = 3_600_000_000
"""A name stays its key's for 30 days after its last use, if it was in use for ten minutes at a stretch; else for an hour, so that
a table full of names that nobody wants empties itself (S9)."""
SERVER_NAME_NOTED_US: Final = 86_400_000_000
SERVER_NAME_NOTED_SHORT_US: Final = 600_000_000
"""How old the last use of a name may be in the file of names, for the two kinds: by so much a crash may shorten its time, and the
file need not be written for everybody who comes and goes."""
SERVER_NAMES_SAVE_US: Final = 1_000_000
SERVER_NAMES_SAVE_SHARE: Final = 20
"""Names are saved together once a second at most, and so rarely that it takes one part in so many of the time: 100 000 names are
10 MB of text."""
SERVER_NAMES_SAVE_RETRY_US: Final = 60_000_000
"""A file that could not be written is tried again."""
SERVER_NAMES_FILE_BYTES_MAX: Final = 67_108_864
"""A file of names that is larger is none: 100 000 names of the greatest length take 50 MB."""
SERVER_NAMES_COMPLAINTS_MAX: Final = 5
"""Lines of it that are named at the start because they cannot be read; for the others a number will do."""
LOGIN_CERTIFICATE_BYTES_MAX: Final = 1_024
"""Longest certificate, signature included, in a login at a server or from one; those that fit a hello are shorter."""
SERVER_ISSUED_US: Final = SERVER_NAME_KEPT_SHORT_US
"""How long a certificate holds that a server issues: as long as a name is kept for its key, so that no two keys hold certificates
for one name."""
SERVER_RELAY_NEWS_AT_ONCE: Final = 200
SERVER_RELAY_NEWS_PAUSE_US: Final = 50_000
"""When the relay map changes, so many clients are told and then as long a pause is made: 20 000 of them in five seconds, rather
than hundreds of megabytes at once."""
SERVER_SWEEP_US: Final = 60_000_000
"""How often names and counters that have run out are removed (S9)."""
SERVER_CLOSE_US: Final = 500_000
"""How long a server that is stopped waits for what it has told its clients to be sent."""
SERVER_DRAIN_TOLD_PER_S: Final = 200
SERVER_DRAIN_SLOT_US: Final = 50_000
"""A server that drains tells so many of its clients a second, a slot at a time: less than another node takes logins (R10, S7)."""
SERVER_DRAIN_TOLD_US: Final = 20_000_000
"""and is through with all of them after this time, however many they are."""
SERVER_DRAIN_US: Final = 60_000_000
"""How long a server that drains waits for the relayed sessions of others to end or to move (R10)."""
FLEET_NODE_NAME_BYTES_MAX: Final = 64
"""Of the name of a node; it stands in each of its beats."""
FLEET_NODES_MAX: Final = 1_024
"""Nodes that one node remembers (S9)."""
FLEET_BEAT_US: Final = 5_000_000
"""How often a node tells the others its load."""
FLEET_NODE_LOST_US: Final = 16_000_000
"""A node that was not heard for three beats is no longer counted."""
FLEET_ANNOUNCE_US: Final = 50_000
FLEET_ANNOUNCED_AT_ONCE: Final = 100
"""After the bus was lost a node tells who is here: so many at a time, and then again after so long, 2000 a second."""
FLEET_DOCUMENT_BYTES_MAX: Final = 262_144
"""Of a document that nodes share: a relay map of a thousand points of presence; a NATS message has 1 MiB at most."""
FLEET_QUEUE_MAX: Final = 10_000
FLEET_PENDING_BYTES_MAX: Final = 4_194_304
"""What waits for the bus, such as while another broker is looked for: the signals of some seconds; what is more is dropped and
counted, and clients repeat it."""
FLEET_START_US: Final = 20_000_000
"""How long a node that starts looks for a broker and for its store of names: a cluster that starts as well elects first."""
FLEET_CONNECT_US: Final = 2_000_000
FLEET_RETRY_US: Final = 250_000
"""How long a broker may take to answer, and how soon the same one is tried again (S11: elsewhere within 5 s)."""
FLEET_PING_US: Final = 2_000_000
FLEET_PINGS_LOST_MAX: Final = 2
"""A broker that says nothing for so many pings is given up: after 6 s; one whose process ended is noticed at once."""
FLEET_LEASE_MARGIN_US: Final = 120_000_000
"""How much earlier than the store a node takes a name for free again: more than clocks and delays of a fleet differ."""
FLEET_CLAIM_US: Final = 4_000_000
FLEET_CLAIM_TRY_US: Final = 1_000_000
FLEET_CLAIM_RETRY_US: Final = 200_000
"""How long a login waits for the store of names, within `SERVER_LOGIN_US`; each question, and the pause before the next one."""
FLEET_CLAIMS_MAX: Final = 256
"""Logins that wait for the store of names; beyond, they are told to come back (S9)."""
FLEET_RENEWALS_AT_ONCE: Final = 16
"""Names written again together; the rest wait, so that nobody's login waits behind them."""
FLEET_NAMES_MAX: Final = 1_500_000
FLEET_NEW_NAMES_MAX: Final = 400_000
"""In the store, of names kept a month and of those kept an hour, some 200 bytes each. When the second is full, new names are
refused and the known ones stay (S9). A limit in bytes would not do: brokers keep to it by forgetting the oldest."""
FLEET_NAME_BYTES_MAX: Final = 1_024
"""Of one entry there: a key and a name of the greatest length, and what is around them."""
FLEET_REPLICAS: Final = 3
"""Brokers that keep a copy of each name, where there are so many; two would not be enough to go on when one is lost."""
TURN_ALLOCATIONS_MAX: Final = 5_000
"""Allocations of the relay, each with a socket of its own and about 3 kB; or half the descriptors of the process, if that is less
(R4)."""
TURN_ALLOCATIONS_PER_IDENTITY_MAX: Final = 16
"""of one identity: a few programs, each by UDP, TCP and TLS (R4)."""
TURN_ALLOCATIONS_PER_HOST_MAX: Final = 128
"""of one IPv4 address or one /64: a household or a school behind one router (R4)."""
TURN_SERVER_PEERS_MAX: Final = 1_024
"""Permissions, and again channels, of one allocation of the relay: as many peers as our own clients deal with (R4)."""
TURN_BYTES_PER_IDENTITY_PER_S: Final = 4_000_000
"""What the relay forwards for one identity, both directions together, and at once after a pause: a fast transfer (R3)."""
TURN_BYTES_PER_NETWORK_PER_S: Final = 20_000_000
"""for all whose packets come from one /24 or /64: five fast transfers (R3)."""
TURN_BYTES_PER_S: Final = 100_000_000
"""for all: most of a gigabit line (R3)."""
TURN_BYTES_GUARANTEED_PER_S: Final = 64_000
"""for one identity also when the two above are spent, as far as there is so much for everybody: voice, and a game (R3)."""
TURN_PACKET_COST_BYTES: Final = 60
"""What each packet is charged beyond its length: its headers, and as a limit of 60 000 packets a second for an identity (R3)."""
TURN_ERRORS_PER_HOST_PER_S: Final = 10
TURN_ERRORS_PER_S: Final = 10_000
"""Errors said to those who have not proven who they are (R5)."""
TURN_ERRORS_PER_IDENTITY_PER_S: Final = 50
"""Errors said to those who have: a client asks for permissions one by one when some are forbidden."""
TURN_ERRORS_BROUGHT_BYTES_MAX: Final = 10_000
"""Bytes of strangers' requests that are kept in mind to answer later ones with; a second of a flood (R5)."""
TURN_ERRORS_ALLOWANCE_BYTES: Final = 4_000
TURN_ERRORS_ALLOWANCE_BYTES_PER_S: Final = 1_000
"""Bytes said to strangers beyond what they brought, at once and each second: the first answers to 40 new clients a second. A
flood of 360 requests a second brings as much as that (R5)."""
TURN_STREAMS_MAX: Final = 5_000
"""Connections by TCP and TLS, or a quarter of the descriptors of the process."""
TURN_STREAMS_PER_HOST_MAX: Final = 128
"""as allocations."""
TURN_OWN_ADDRESSES_US: Final = 30_000_000
"""How often the relay looks which addresses its machine has, such as temporary ones of IPv6: they are no peers (R1)."""
TURN_STREAMS_PER_HOST_PER_S: Final = 20
TURN_STREAMS_PER_HOST_BURST: Final = 128
"""New ones of one host or /64: a handshake of TLS costs as much as forwarding a hundred packets (R4)."""
TURN_STREAM_ALONE_US: Final = 10_000_000
"""How long a connection may be without an allocation, its TLS handshake included (R4)."""
TURN_STREAM_STRANGER_BYTES_MAX: Final = 2_048
"""of an unfinished message of a connection that has had none: a request with the longest names (R4)."""
TURN_STREAM_QUEUE_MAX: Final = 512
TURN_STREAM_QUEUE_BYTES_MAX: Final = 1_048_576
TURN_STREAM_QUEUE_US: Final = 2_000_000
"""Packets that wait for one client that reads slowly, and for how long; the oldest is dropped first, since what they hold is
replaced by newer ones (R11)."""
TURN_STREAM_UNSENT_BYTES: Final = 65_536
"""of one connection in the kernel, where they cannot be dropped: at 1 Mbit/s half a second (R11)."""
TURN_CREDENTIAL_S_MAX: Final = 90_000
"""How far ahead the end of a time-limited name for the relay may lie: the day that is usual with coturn, and an hour for clocks
that differ; one that leaks is of use no longer (R2)."""
TURN_NONCE_US: Final = 600_000_000
"""A nonce of the relay holds for one to two of these: clients meet a stale one (438) as rarely as they refresh (R2)."""
STUN_ANSWERS_PER_HOST_PER_S: Final = 20
STUN_ANSWERS_PER_HOST_BURST: Final = 50
STUN_ANSWERS_PER_S: Final = 2_000
STUN_ANSWERS_BURST: Final = 2_000
"""Answers to binding requests. Of 32 or 44 bytes, they may be larger than the request of 20, so a forged source can be sent at
most 880 bytes a second, and all of them together 88 kB (E5)."""

SIGNALING_UNSENT_AGE_US: Final = 10_000_000
"""A signal that waited longer for the connection to the server is not sent any more: what it began has been given up."""
SIGNALING_REFUSED_PAUSE_US: Final = 60_000_000
"""Until the next login after a refusal that trying again does not change, such as a name that is taken."""
SIGNALING_PING_US: Final = 20_000_000
"""How often a client asks whether the connection to its server still carries, below the time after which routers forget it."""

FAKE_ADDRESSES_MAX: Final = 32_768
"""Identities of a process that get a fake address, half of those there are, so that a free one is always found soon. A few MB.
Beyond, newcomers get none: an address that passed from one identity to another would deliver to the wrong one."""
SHIM_PORT: Final = 27_015
"""The port of peers whose datagrams carry none; many programs refuse 0."""
SHIM_DATAGRAM_BYTES_MAX: Final = 65_507
"""Longest datagram that a socket look-alike sends: as UDP over IPv4. Above `UNRELIABLE_SEND_BYTES_MAX` it goes reliably."""
SHIM_QUEUE_DATAGRAMS_MAX: Final = 1_024
SHIM_QUEUE_BYTES_MAX: Final = 1_048_576
"""What waits to be read from one socket look-alike. Beyond, unreliable datagrams are dropped as by a full UDP socket, reliable
ones wait at their sender."""
SHIM_CLOSE_US: Final = 1_000_000
"""How long closing waits for datagrams that have not left, because their session is not up yet or the line is busy: several round
trips of a handshake around the world, and no more than a program that ends may be kept for."""
SHIM_TRANSPORT_BYTES_MAX: Final = 1_048_576
SHIM_TRANSPORT_HIGH_BYTES: Final = 65_536
"""What an asyncio look-alike holds for peers whose send buffers are full: from the second number on its protocol is asked to
pause (asyncio's own mark), beyond the first datagrams are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a user may set; every instance is checked when made. Times are microseconds, sizes bytes, rates bytes per second."""

    timeout_initial_us: int = 10_000_000
    """Whole time a connection may take to come up (TimeoutInitial, 24)."""
    timeout_connected_us: int = 10_000_000
    """Silence, with questions unanswered, that ends a connection (TimeoutConnected, 25)."""
    resume_window_us: int = 60_000_000
    """How long a session that was found by signaling is kept while its own peer is silent: he may come back by another way."""
    send_buffer_bytes: int = 524_288
    """Data queued and not yet sent, all lanes together; more is refused with LimitExceeded (SendBufferSize, 9)."""
    recv_buffer_bytes: int = 1_048_576
    """Unread data of one peer (RecvBufferSize, 47; M1)."""
    recv_buffer_messages: int = 1_000
    """Unread messages of one peer (RecvBufferMessages, 48; M1)."""
    recv_message_bytes_max: int = MESSAGE_BYTES_MAX
    """Larger messages end the connection with 5002 (RecvMaxMessageSize, 49)."""
    recv_segments_per_packet_max: int = SEGMENTS_PER_PACKET_MAX
    """RecvMaxSegmentsPerPacket (50)."""
    rate: Literal["auto", "fixed"] = "auto"
    """`auto`: congestion control; `fixed`: the reference's rule, `send_rate_bytes` whatever happens."""
    send_rate_bytes: int = 262_144
    """Bytes of UDP payload per second under `rate="fixed"` (SendRateMin = SendRateMax, 10 and 11)."""
    nagle_us: int = 5_000
    """How long a small message waits for company (NagleTime, 12)."""
    no_delay_queue_us: int = 200_000
    """A NoDelay message is dropped when it would wait longer than this (the header's promise, G9)."""
    datagram_bytes: int = DATAGRAM_BYTES_MAX
    """Largest UDP payload sent, to a reference peer and at first (MTU_PacketSize, 32)."""
    path_mtu_bytes_max: int = DATAGRAM_BYTES_OWN_PEER_MAX
    """Up to which UDP payload the path to an own peer is searched for what it carries; from `datagram_bytes` = 1300 only."""
    unencrypted: int = 0
    """Ciphers offered: 0 AES only, 1 AES or none, 2 none or AES, 3 none (Unencrypted, 34). Anything but 0 is for tests."""
    send_time_since_previous: bool = False
    """Whether packets tell the time since the one before, for the peer's jitter (SendTimeSincePreviousPacket, 59)."""
    framing: Literal["messages", "raw"] = "messages"
    """`messages`: each message carries its channel, as the messages API does. `raw`: no header, channel 0 only, for reference
    programs
    that use plain connections."""
    candidates: Literal["all", "public", "relay"] = "all"
    """Which addresses of ours peers may learn and use, when called by identity: `public`: none of private networks; `relay`: none
    at all, only relays, and no peer is dialed by address (P2P_Transport_ICE_Enable, 104)."""
    ping_location: Literal["auto", "tell", "keep"] = "auto"
    """Whether peers are told our pings to relays, which tell roughly where we are; `auto`: unless `candidates` is `relay`."""
    port_mapping: bool = True
    """Whether the router is asked for a port to the outside (PCP, NAT-PMP, UPnP-IGD) while peers are called by identity."""
    receipts_max: int = 65_536
    """Messages sent with a receipt whose fate is open, or not told yet; one more is refused with LimitExceeded."""
    linger_us: int = 500_000
    """How long reliable data is flushed in the background after `close_session` (0: not at all, as the reference)."""
    session_idle_us: int = SESSION_IDLE_US
    """A session without a message either way ends after this time, without a callback."""
    pending_requests_max: int = PENDING_REQUESTS_MAX
    """Strangers waiting to be accepted (M4)."""
    ice_spares_max: int = 2
    """Other ways to a peer that are kept ready, at the price of a small packet every 15 s each."""
    gather_idle_us: int = 60_000_000
    """Relay allocations, port mappings and their sockets are given back when no peer needed them for this long."""

    @property
    def tells_ping_location(self) -> bool:
        """What `ping_location` comes to."""
        return self.ping_location == "tell" or (self.ping_location == "auto" and self.candidates != "relay")

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"config: {name} must be a whole number from {low} to {high}, not {value!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"config: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")


_RANGES: Final[dict[str, tuple[int, int]]] = {
    "timeout_initial_us": (1_000, 3_600_000_000),
    "timeout_connected_us": (1_000, 3_600_000_000),
    "resume_window_us": (0, 3_600_000_000),
    "send_buffer_bytes": (4_096, 268_435_456),
    "recv_buffer_bytes": (4_096, 268_435_456),
    "recv_buffer_messages": (2, 268_435_456),
    "recv_message_bytes_max": (64, 268_435_456),
    "recv_segments_per_packet_max": (1, SEGMENTS_PER_PACKET_MAX),
    "send_rate_bytes": (1_024, 1_073_741_824),
    "nagle_us": (0, 20_000),
    "no_delay_queue_us": (0, 10_000_000),
    "datagram_bytes": (200, DATAGRAM_BYTES_MAX),
    "path_mtu_bytes_max": (0, DATAGRAM_BYTES_OWN_PEER_MAX),
    "unencrypted": (0, 3),
    "receipts_max": (1, 16_777_216),
    "linger_us": (0, 60_000_000),
    "session_idle_us": (1_000_000, 86_400_000_000),
    "pending_requests_max": (1, 65_536),
    "ice_spares_max": (0, 8),
    "gather_idle_us": (0, 86_400_000_000),
}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "rate": ("auto", "fixed"),
    "candidates": ("all", "public", "relay"),
    "ping_location": ("auto", "tell", "keep"),
    "framing": ("messages", "raw"),
}

assert set(_RANGES) | set(_CHOICES) | {"send_time_since_previous", "port_mapping"} == {field.name for field in fields(Config)}
