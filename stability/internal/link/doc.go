// Package link owns one whatsmeow client's way to the network, and the one
// procedure by which each of its connections ends.
//
// # Why it exists
//
// whatsmeow holds its socket lock for the whole of dial and handshake. It
// waits a constant 20 s for a server hello that no longer can come, and 5 s
// for a websocket close handshake on a dead link. It leaks its read pump when
// a connection is closed while a frame is on its way to a consumer that is
// gone. Its queue of received stanzas belongs to the client, not to the
// connection, so that stanzas of one connection are handled on the next. None
// of this can be cured from inside a handler, or by calling Disconnect at a
// better moment. All of it can be cured from below, at the network connection,
// and from above, by an order of steps.
//
// # The parts
//
//   - [Link]: belongs to one client. Install gives the client its HTTP
//     clients, the settings under which somebody else than whatsmeow owns
//     reconnection, and one permanent event handler.
//   - [Conn]: one attempt and, if it succeeds, one connection. It begins when
//     Connect is called, or when the dialer sees a dial that the host's own
//     client.Connect caused. Exactly one network connection belongs to it.
//   - the raw wrapper, under TLS: counts, asks the wire fence before each
//     Write, and is what a cut ends.
//   - the body wrapper, around the upgraded response: sees the websocket in
//     clear, hands it to whatsmeow's read pump, and decides when the pump may
//     see what.
//
// # The wire fence
//
// Config.Gate is asked before each Write on the raw connection. If it
// answers with an error, the connection is cut for that error and the Write
// fails: not one byte of it goes out. A process that slept through its lease
// therefore sends nothing when it wakes, whatever it believed. New media
// requests and media dials ask the same gate; media transfers already under
// way are not cut.
//
// # A cut
//
// Cut sets a flag after which Write fails and Read returns an error, and
// cancels the dial. It lets the kernel drop its unsent data (SO_LINGER 0),
// closes the raw connection, and waits for a Write in progress. When it
// returns nothing more goes out. It takes no lock of whatsmeow's and calls
// none of its methods, so it may be called from anywhere.
//
// A failed raw Read, and whatsmeow's own closing of the websocket, put the
// connection into the same state. [Conn.Down] is closed in each case; it
// knows of a loss without any event of whatsmeow's.
//
// # The handshake
//
// Until the server hello is complete, the body wrapper keeps arriving data for
// itself. The attempt may die in that time, by a cut, a lost link, a close
// frame, something that is no websocket, or Config.HelloTimeout. The pump then
// sees one empty frame instead. That is a server hello with its parts missing,
// and Connect fails at once instead of after 20 s. After the hello, the pump
// sees nothing more until Connect has returned or the body was closed. It sees
// no read error, which would race with the handshake, and no further frames,
// which nobody would take off the pump's hands if the handshake fails.
//
// A client may offer permessage-deflate; the offer passes as it is. If the
// server accepts it, frames may be compressed, and the empty frame is a plain
// one all the same. A compressed hello is unpacked to see where it ends, and
// handed over packed anew, so that the client's window stays right. With any
// other extension the wrapper lets everything pass and does without all this.
//
// Messages of text pass. If the server answers, and not with a hello of the
// known form, the attempt fails and the next one is a trial that lets
// everything pass. If whatsmeow gets on in the trial, and the form was indeed
// another one, all further attempts do the same. They take whatsmeow's time to
// fail.
//
// # The end
//
// [Conn.End] is the one way in which a connection ends:
//
//  1. cut;
//  2. wait until Connect has returned, for it holds the socket lock;
//  3. wait until the read pump has seen an error (a millisecond after the last
//     Write has failed, or a send would race with whatsmeow's closing): it has
//     handed over every earlier frame then, and nothing can block it any more;
//  4. wait until whatsmeow has run its own disconnect: a send with a dead
//     context answers ErrNotConnected from then on;
//  5. Disconnect, which finds no socket and only marks the end as expected,
//     so that waiters return at once instead of after 5 s;
//  6. cancel the connection's context, which frees goroutines that wait for a
//     full queue;
//  7. drain: wait for the connection's queue loop to end. Older versions of
//     whatsmeow have one queue a client: run it under a dead context until a
//     marker stanza of our own comes out, 10 ms more, and a second marker.
//     Newer ones have a queue a connection, which goes with it: wait until no
//     handler has been running for 10 ms.
//
// A message that was not begun when its connection went down is left alone: it
// could not be acknowledged any more, and the server delivers it again. Other
// stanzas handled by the drain see a cancelled context, and their events do
// reach the host's handlers; [Link.Draining] is true meanwhile. Config.Admit
// may leave more messages alone, such as one that is still with a handler of an
// earlier connection.
//
// # What it relies on
//
// Each [Reliance] is looked for at run time, by shape. Quiesce puts a marker
// into the queue where there is one queue a client. Else it counts. The tap
// says what was received ([Link.Received]). A counter around each entry of the
// client's table of handlers says what was handled. [Conn.Work] tells both,
// with any kind of queue. Without the first the queue counts as empty when no
// handler has been running for 100 ms; without both Quiesce only waits that
// long. Stanzas known to be left in a queue of unknown shape make End fail, so
// that a new client is made.
//
// # What can go wrong
//
//   - A handler that blocks makes the drain as long as it blocks (whatsmeow
//     itself waits up to 300 s for one stanza). The context given to End
//     bounds it; when it ends first, the client must not be used again. End
//     may be called again, and resumes.
//   - whatsmeow's own Disconnect (pairing failed, Logout, or called by the
//     host) and a context that the host cancels on its own Connect stop the
//     consumer of the read pump's frames before the pump. The frames that the
//     pump still has are taken off its hands when its socket is closed (pump.go). A host
//     that replaces client.Log after Install may leave a pump behind: then
//     nobody hears of its socket.
//   - A pairing that is cut between the server's pair-success and our answer
//     fails while it is drained: PairError comes, though Draining is true, and
//     the device must not be used again.
//   - client.SetProxy after Install replaces our dialer. [Link.Saw] is false
//     then while the client says it is connected.
//   - An event handler runs in the order of registration, and Install's must
//     be the first, or the host sees the drain's markers: OfflineSyncCompleted
//     with a Count near -2^30.
package link
