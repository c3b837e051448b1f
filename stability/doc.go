// Package stability keeps a host's own whatsmeow client alive and honest.
//
// A [Manager] looks after the connection of one account. One instance at a
// time holds it, and its device survives the machine. It comes back after
// every kind of disconnect, and stops when it must. [Manager.Status] says what
// is wrong. The host keeps its *whatsmeow.Client and its handlers.
//
//	m, err := stability.New(stability.WithBackend(backend), stability.WithQR(show))
//	...
//	err = m.Run(ctx, func(ctx context.Context, c *whatsmeow.Client) error {
//		c.AddEventHandlerWithSuccessStatus(handle)
//		return nil
//	})
//
// # Terms
//
// Everything happens within a term of the lock (package lock). The device, its
// caches and the client on it belong to one term and are never used in
// another. A ratchet that was read in one term and written in the next would
// undo what another instance did in between. Two fences stand behind that and
// need no clock: every write to the store carries the term's epoch, and every
// write to the socket asks whether the term is held.
//
//	passive ─ refused ─▶ standby
//	passive, standby ─ granted ─▶ active: connecting ⇄ connected
//	active ─ lost, cut, handed over ─▶ leaving ─ the term is torn down ─▶ passive
//
// When trust in the lock ends the socket is cut, before the lease can be taken
// by another. The same happens when the store has been out of reach for too
// long. A message that was received but cannot be written down must not be
// acknowledged. The server delivers it again to the instance that connects
// next.
//
// # One core, one loop
//
// All decisions within a term are made in one place, internal/term, which is pure:
// a table says what follows from which evidence. It is given evidence from the
// receive tap, from whatsmeow's events, from the raw connection and from the
// host's calls, under a lock that is never held across I/O. Work that may take
// long is done by one loop in each term, which alone connects, ends connections
// and saves the state. So every method may be called from any goroutine, also from
// inside a whatsmeow event handler.
//
// A connection ends once. The first evidence ends it; later evidence can only
// improve the reason, by the precedence table of package reconnect. A terminal
// reason cancels an attempt that was planned. Every end goes through the one
// procedure of internal/link, after which the client can be used again and
// nothing stale is left in it.
//
// An attempt is written to the persisted state before it begins. While the
// backend does not answer there is no attempt: one that nobody remembers would
// reset the clocks that a restart must not reset.
//
// # Messages
//
// The Manager's handler comes first and refuses a message when it could not be
// answered or acknowledged any more. That is so on a connection that is down,
// and during a hand-over. whatsmeow then leaves it unacknowledged, and the
// server delivers it again. A handler of the host's that returns false from
// AddEventHandlerWithSuccessStatus does the same; prefer that to
// AddEventHandler when handling can fail. A message may be handed over twice
// when the process dies, or the lock or the backend is lost, before it is
// noted that the handler has returned. The same holds when the handler
// outlives a hand-over, and when the sender sends the message once more though
// it was handled. So may one that is in no event buffer (of a bot, or of a
// newsletter with SynchronousAck) when the connection ends before it is
// acknowledged. A handler that stands before the Manager's, since it was added
// before Attach or again after RemoveEventHandlers, is given twice what the
// phone sends of a message that could not be decrypted. Use its id to tell.
//
// Every message that the service delivered is in one of three places, and
// Status.Messages.Received counts them: handled, waiting, or set aside.
//
//	a handler returned false    WhatsApp has it, and delivers it at the next login. The Manager makes one when nothing
//	                            has come for a minute, at the latest after 15; while that brings nothing, more and
//	                            more rarely, every 15 min in the end (reason redelivery). By hand only where it was
//	                            told how to connect
//	a handler panicked          whatsmeow would acknowledge it as handled; its content is kept in the store first, and
//	                            handed over again from there: after a minute, and then more and more rarely, every
//	                            15 min in the end. While the handlers take nothing, one at a time is tried
//	it cannot be decrypted      an entry is written before it is acknowledged; the phone is asked for it, after 5 min
//	                            and then more and more rarely, for 14 days
//	it is for the phone alone   such as a view-once message: the same, but the phone is asked three times only, and
//	                            no incident is raised
//	whatsmeow panics at it      the process goes on; what was decrypted by then is kept, and handed over from there, else
//	                            it cannot be decrypted
//	the phone has sent it       it is kept first, and handed over from there
//	the program has no handler  the same as one that returns false, if it had one before or has been attached for
//	                            less than 2 min; a program that never has one does not want messages
//	nobody could be given it    whatsmeow acknowledges it without an event: set aside, without content
//	another one has its id      contents are compared: each is a message with an entry of its own. The content of one
//	                            that was set aside for want of it is handed over, however late it comes
//
// A message whose handling ends the process is found. A mark stands in the store while a
// term runs. A holder that finds the mark of an earlier term writes down each message
// before it is handled, until the backlog is done (one more commit a message). A message
// that was begun so three times and did not end is left alone, unacknowledged, and those
// behind it are handled. It is offered again after an hour (the next time after two, and
// so on up to a day), by an instance that has held the lock for an hour. A new build, or
// Redeliver, offers it at once.
//
// A message that handlers did not take in 20 tries over a day, while they took
// others between these, is set aside with its content and holds up nothing any
// more. It stays until somebody deals with it, unless authstore.Retention.SetAside
// gives it an age; of those without content the newest 1,000 stay. MessageGroup.Bytes
// says how much content is stored. Messages lists what waits and what is set aside;
// Redeliver and PurgeMessage deal with one of them. A kept message stands in the store, sealed as everything
// there is, and the next holder of the lock goes on with it.
//
// # Sent messages
//
// [Status].Messages.Sent counts what became of the messages that this process
// has sent. The logger of [Manager.Logger] shows each <message> that goes out
// and its <ack>; a client with another logger is not counted, and Seen says
// so. The counts leave out peer messages, and copies that one device or
// participant has asked for. Five refused or unanswered ones in a row, to three recipients
// at least, make the health mute and open the incident wa_sends_refused;
// keepalive.Policy sets the numbers. Nothing else follows: no send is held up,
// none is repeated, no connection ends for it. WhatsApp documents none of its
// codes; the texts say what hosts have found. It tells some accounts of a
// restriction to existing chats in a notification
// (Status.Messages.Sent.Restricted), and refuses others without a word.
//
// # Settings of the client
//
// Attach sets EnableAutoReconnect and InitialAutoReconnect to false,
// DisableLoginAutoReconnect and EnableDecryptedEventBuffer to true,
// AutoReconnectHook to nil, and a RefreshCAT that fails where there is none
// (whatsmeow would panic without). It replaces the HTTP clients. A proxy goes
// into [WithTransport]. All of it is looked at before every attempt. A setting
// that the program has changed is set back, with one warning a setting and
// term.
//
// # A client under Run
//
// Run connects and disconnects its client. A program that does so too does no
// harm: Connect is superfluous or one attempt more, and behind a Disconnect Run
// connects again after Policy.InitialDelay, with growing pauses if it goes
// on. Only a logout, the end of Run and Close stay away. By hand a Disconnect is the
// program's decision, and stays.
//
// libsignal, under whatsmeow, prints to standard output and makes its logger
// without a lock; New gives it a silent one, once in a process, unless the
// program has set its own (go.mau.fi/libsignal/logger).
//
// # Words
//
//	account      one WhatsApp account: a backend, and a Manager in each instance
//	instance     one Manager, in a process of its own or beside others
//	term         one possession of the lock by one instance
//	seat         where an instance stands with the lock; its states are places: passive, standby, active, leaving, shut
//	possession   what other instances see of a term: the holder and the epoch
//	hold         the lock of a term, as package lock gives it: Held says whether it counts at this moment
//	heir         the hold that follows a heal: the next term of this instance begins with it
//	hand-over    the end of a term in good order, so that another instance may begin one
//	by hand      the program makes the client, and has it connected by AuthState, Attach and ScheduleReconnect; not under Run
//	epoch        the number of a term; a newer one is higher, and each write carries it
//	lease        how long a term lasts when it is not renewed
//	device       whatsmeow's *store.Device: the keys by which WhatsApp knows this program
//	paired       the account has a device that a phone has accepted
//	session      what a login of the account needs, all its keys together; where contacts are meant (in authstore,
//	             in plural) it is a Signal session, with one device of somebody else
//	attachment   a client in a term, from Attach (or Run's setup) until it is retired
//	attempt      one call of the connect function
//	connection   a socket and what becomes of it; an attempt that never dialed counts too
//	evidence     anything from which something follows: a stanza, an event, an error, a call
//	reason       why a connection ended, in one word of package reconnect
//	decision     what follows that end, and when
//	plan         the next attempt
//	parked       nothing is done until somebody asks: WaitQR, PairPhone or Reconnect
//	incident     trouble that people are told of: raised once, refreshed, resolved
//	unfit        this instance cannot connect, for a reason that may be its own
//	yield        an unfit holder gives the lock up, so that another instance can try
//	outage       the time without a connection
//
// Five verbs say how something comes to its end:
//
//	cut          at once, waiting for nobody: a socket, or a term with its socket
//	end          a connection: why is known, and the client is made usable again
//	retire       a client: it gets no message and makes no attempt any more
//	stop         a term in good order: handlers finish, everything is written down
//	release      the lock is given back
//
// # What stays behind
//
// whatsmeow starts one goroutine per client that received a history sync. Versions before
// 2026-01-07 never end it, later ones do after a minute; set ManualHistorySyncDownload to
// avoid it. A handler, a setup or a connect function that blocks for ever keeps its
// goroutine. A host that calls its client's own Disconnect or Logout while frames arrive
// stops whatsmeow's taker of frames before its read pump. The pump is freed within
// seconds, by means of the client's logger: a host that replaces client.Log may leave a
// pump behind. One that removed our event handler and connects past our dialer is
// disconnected as soon as its attempt returns. Nothing else outlives Close.
package stability
