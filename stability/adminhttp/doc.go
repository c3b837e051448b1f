// Package adminhttp shows one Manager to operators and their tools, over HTTP.
//
//	h, err := adminhttp.New(m, adminhttp.WithToken(os.Getenv("ADMIN_TOKEN")))
//	http.Handle("/admin/", http.StripPrefix("/admin", h))
//
// # Endpoints
//
//	GET  /                          the page for people; without a sign-in it asks for the token
//	GET  /set-aside                 the page about what the store has set aside
//	POST /do, /sign-in, /sign-out   the page's own forms
//	GET  /events                    tells the page of changes: server-sent events, without data
//	GET  /health                    200 while the process is fit, in standby too; 503 once the Manager is closed
//	GET  /ready                     200 while connected; with ?standby=ok also in standby, for rolling deploys; else 503
//	GET  /api/longrun/status-now    everything that is known, and what it means
//	GET  /api/longrun/incidents     the incidents, active ones first
//	GET  /api/whatsapp/qr           the code to scan: JSON, or an image with Accept: image/png; 404 when there is none
//	POST /api/whatsapp/pair         {"phone": "+49 1520 0000001"}: a code to type into that phone
//	POST /api/whatsapp/logout       removes this device from the account
//	POST /api/whatsapp/reconnect    ends the connection and comes back, or makes the next attempt now
//	GET  /api/whatsapp/quarantine   what the store has set aside: a deleted session, damaged rows
//	POST /api/whatsapp/quarantine/restore-device   makes the deleted session the account's again, while no other phone is linked
//	POST /api/whatsapp/quarantine/purge-device     {"confirm": "purge-device"}: removes it for good
//	POST /api/whatsapp/quarantine/purge-rows       {"confirm": "purge-rows"}: removes the damaged rows for good
//	GET  /api/whatsapp/messages                    received messages that no handler has taken yet
//	POST /api/whatsapp/messages/redeliver          {"entry": …}: hands one over to the program again
//	POST /api/whatsapp/messages/purge              {"entry": …, "confirm": "purge-message"}: removes one for good
//
// # The page
//
// It says what is wrong, since when, why, what happens next and what to do. It
// has the code to scan, a form for a code to type, health, messages, the lock
// and incidents. It shows the last day as a band, and as the last 50
// transitions. It needs no script: its buttons are forms, and it loads itself
// anew. With a script it hears of changes at once (server-sent events) and
// counts down. It loads nothing from elsewhere, and has less than 60 KB. A
// handler notes the day in memory, from New on; the page says from when on it
// knows.
//
// A link to one incident is /?incident=ID. It survives signing in, and is what an
// alert should carry.
//
// # Many accounts
//
// NewFleet serves many Managers: an overview with the worst first, each account
// under ~NAME/, and the probes of all together. One signs in once.
//
// # Signing in
//
// The page asks for the token once, and gives the browser a cookie: a random
// id, new with each sign-in, that only this process knows. It is HttpOnly and
// SameSite=Strict, goes to this handler's path only, and is Secure when the
// request came by TLS or carries X-Forwarded-Proto: https. A sign-in ends
// after an hour without a request, after twelve hours, by the button, and with
// the process. Of more than 100, the least used one ends. Each form carries a
// token of its sign-in, and one that another site sent is refused. The API
// takes the token in its header only: a cookie opens nothing but the page.
//
// # The answer of status-now
//
// {success, timestamp, summary, wa, state, config, heartbeats, probes}. Every field is
// always there, null where there is no value. Times are RFC 3339, UTC, with
// milliseconds. Durations are numbers whose names end in Ms. The time wa.lockLeaseUntil
// is in milliseconds of the Unix epoch. The flag wa.lockMayBeFree is true if
// wa.lockHolder held the lock at wa.lockSeenAt, its lease has run out since, and nobody
// here has asked again. Values that only the holder of the lock knows (state, retries,
// keys) are null in standby. In wa.authSizes are the numbers of rows that grow with
// traffic; it is null while nobody has counted. In wa.messages are the outcomes of
// messages: received, sent and resends. In received, by has for each state count,
// oldest, contentBytes (how much of their content is stored here) and why, which says
// why the message that was tried last is there. In missed is the same without the
// messages that nobody misses, such as those for the phone alone. The flag read is
// false before the holder of the lock has read which messages wait, and in standby. The
// number removed counts messages that were set aside and are removed for their age
// (authstore.Retention.SetAside), or without content for want of room. The fields text
// and whatToDo are about all of them.
//
// Four fields of wa answer an operator's questions without any other: summary
// (what is wrong), since (since when), reasonText (why), nextStep (what
// happens next by itself). A fifth, whatToDo, says what a person should do.
//
// # The answer of quarantine
//
// {success, timestamp, summary, devices, rows, rowCount}. A device (one at
// most) has account, since, reason, why, whatToDo. A row has kind, what (its
// content and what its loss means), peer (null if it is nobody's in
// particular), since, why, bytes. The oldest 200 rows are listed, rowCount
// counts all. Only the holder of the lock answers; others say not_active.
//
// # The answer of messages
//
// {success, timestamp, summary, messages, count}. A message has entry (its name
// for the other two calls), state (queued and in_hand and at_service pass by
// themselves; refused, kept, undecrypted, left_alone, set_aside), id, chat, sender, sent,
// received, since, lastTry, tries, why, hasContent. The oldest 200 are listed,
// count counts all. Contents are never shown. Empty in standby.
//
// # Guarantees
//
//   - GET does no I/O: it reads what the Manager knows, and never waits. Except
//     /api/whatsapp/quarantine and the page about it, which read the backend,
//     for 10 s at most.
//     Messages set aside are read and changed by one request at a time. A
//     change goes on when its caller has gone, for a minute at most, and may
//     be repeated.
//   - Without the token there is nothing but the page that asks for it, /health and
//     /ready, and these name a status and a reason, nothing more. Tokens are
//     compared in constant time. Wrong ones are slowed down, by
//     address and all together, at the form too; the right one is never locked
//     out by that. With WithAuthorizer the host's function decides instead, for
//     the page too, and a POST from another site is refused.
//   - No key material. Phone numbers are masked, except with WithPhoneNumbers.
//     The code to scan is a secret for as long as it is valid. Anybody who has
//     it can link a device to the account of the person who scans it.
//   - Every error is {"success": false, "error": …, "message": …}: a stable
//     word, and what to do. Bad input is a 4xx.
//   - Nothing may be cached, framed or sniffed; the page loads nothing from
//     elsewhere.
//   - A page that is open costs little: 1,024 streams at most, each with a
//     deadline for every write, so that a client that takes nothing is dropped.
//     Streams end with Close, and with the Manager.
//
// # What can go wrong
//
// Addresses are those of the TCP connection: behind a proxy all share one, and
// so share the budget for wrong tokens. http.Server.Shutdown waits for streams:
// call Close first, for example by RegisterOnShutdown. TLS and what else keeps the token
// secret on its way are the host's. A HEAD is answered as its GET.
package adminhttp
