// Package authstore keeps a whatsmeow device and all its Signal state over any
// KV. It is one implementation of every whatsmeow store interface: cached,
// fenced by term, and safe through an outage of the KV below it.
//
// # Who is authoritative
//
// The KV is. Memory is a copy of it that is sound because there is one writer: the
// term. Every row that was read or written stays true until the term ends, so after a
// device is loaded the steady state reads nothing. A Device, its memory and the client
// on it belong to one term and never to another. A ratchet that is read in one term and
// written in the next undoes what happened between.
//
//	Container ── Device(ctx, fence) ──> store.Device ── its stores ──> deviceStore
//	                                                                     │ windows   who may step a session
//	                                                                     │ overlay   what a transaction sees
//	                                                                     │ image     tables in memory
//	                                                                     │ pipeline  serial commits, riders
//	                                                                     │ gate      outage, fence, deadlines
//	                                                                     └> KV       rows: format, sum or seal
//
// Loading is two round trips: the head, which names the device's generation of
// rows, then all tables at once. A read error is an error; a missing head is
// an account without a device, for which a new unpaired Device is made, and
// nothing is written until whatsmeow saves it. Sender keys, app-state MACs,
// message secrets and outgoing events are read on demand. Of sender keys those
// that were used last stay in memory (WithSenderKeyCache), and that one is
// missing is remembered, so a group that is active costs no read.
//
// # Writes
//
// A session, a sender key, a prekey and a decrypted event are durable before
// the call returns. The transaction of a received message is an overlay in its
// context: it reads its own writes, is rolled back by an error, and is
// committed as one batch. Memory changes only after the commit.
//
// A write that may be lost or repeated rides: it is applied to memory at once, and
// the next commit takes it along. It is flushed after one second at most
// (identities, LID mappings, tokens, secrets, the mark that an event is finished,
// app state), after five (names, chat settings), and by Close. If a crash comes
// first: a finished event is handed to the host once more; an app-state patch is
// fetched again; most of the rest is learned again. An identity that rides is never
// later than the session it belongs to, because they go in one batch.
//
// A message's secret is not learned again: the message is acknowledged, and its later
// votes and edits cannot be read without it. So the Manager's deliveries name it
// (SecretDelivery), and it goes in one batch with the decrypted message. A secret that no
// delivery names rides: in a program that uses this package alone, and for messages that
// are not in the event buffer, as in channels and histories.
//
// Unchanged values cost nothing.
//
// Commits are serial. Requests that wait at the same moment share one batch
// when it holds them all, each still waiting for its own durability. A commit
// does not end with its caller's context: the same batch is repeated until its
// outcome is known or the term ends, else memory and disk would part.
//
// Values and batches beyond the KV's Limits are split. A value goes into parts, written
// first, and a manifest that takes its place last. A batch goes into several, in an
// order that stays right if only the first of them land. An event goes before the
// session that decrypted it, and a counter before what it counts. A prekey's removal
// goes after the session that used it, and an app-state version after its MACs.
//
// # Windows
//
// whatsmeow reads a session, steps it, and writes it back, for a send across a
// network call of up to minutes, and nothing keeps a receive out. So, per
// address, every read that precedes a write opens a window:
//
//	GetManySessions                     a send's, until PutManySessions
//	GetSession outside a transaction    a retry receipt's or a peer message's, until PutSession
//	first touch in a transaction        a receive's, until it is committed or rolled back
//	deletes, MigratePNToLID             for their commit; they break sends at once
//
// Others wait. A receive's window is never broken, and no send's once its write is
// on the way. A send's is broken when somebody has waited three seconds; its write
// then fails with ErrWindowBroken, all of it. Nothing is on the wire by then, so
// the message can be sent again. A send that never comes to write is noticed by
// its context, by its goroutine's next read, by the next send (sends are serial
// under whatsmeow's lock), or by that wait. Where nobody else wants its addresses,
// a look at all windows notices it after two minutes. The owner of a send's window
// is its goroutine, since no context or token leads from the read to the write.
//
// MigratePNToLID breaks the number's sends even if it has nothing to move. A
// send that begins later with an address that has moved fails too: two first
// messages that cross would else leave one session where no answer finds it.
//
// Inside one's own window nothing blocks. A waiting caller holds nothing that another can
// wait for, except while a transaction touches a second address; every such
// wait is bounded or ends with the commit of the other.
//
// # Outage
//
// whatsmeow answers a store error during decryption with an acknowledgement
// and a retry receipt, and the message is gone from the server. Only an error
// that matches context.Canceled leaves it there. So a call that fails waits and
// is repeated, until the lock is not trusted any more or for 30 seconds. Then
// Fence.Cut cuts the connection, and only after that does anything fail: that
// call and every later one, with an error that matches context.Canceled and the
// cause. ErrFenced cuts at once. An error that cannot pass (ErrTooLarge,
// ErrCorrupt) is returned and never cuts, else one poisonous message would end
// every term.
//
// Every call of the KV has a deadline of its own. A commit that ignores it is
// waited for until patience ends and never run twice at a time: it could land
// after something newer.
//
// # Damage
//
// Every value carries its format version and a checksum over its content and
// its key. A row that does not parse is copied to the kind "quarantine",
// removed, reported (WithOnIncident), and counts as missing: the protocol
// builds that session again. A session or a sender key that libsignal cannot
// parse is treated alike. Container.Quarantined lists what is kept,
// Container.PurgeRows removes it. The credentials are never set aside: Device fails and leaves
// them untouched. A format newer than this library's is ErrNewerFormat, for the
// whole device, and is never written over.
//
// # Age
//
// Rows that grow with traffic go at some age: WithRetention. Message secrets
// are kept for 180 days, and so are sender keys that nobody has used and tokens
// that were not renewed. The marks of finished events are kept for 14 days, and
// sent messages for seven. Of one-time prekeys the newest 10,000 stay. A
// received message that no handler has finished has no such age. One that a
// killed process has left, and that WhatsApp does not deliver any more, was
// perhaps handled: it goes 14 days after that was found (EventLeftovers). One
// that was set aside stays for ever unless Retention.SetAside gives it an age.
// The LID map has none unless Retention.LIDs gives it a bound. Removals ride on
// other commits. Sent messages are packed, sixteen messages to a row
// (SentKeeper). Until a row is full, its messages stand in the rows of sessions
// that are written anyway. With WithSending that is the row of the send itself,
// so that a crash costs none; without it the next one. Finding old secrets and
// sender keys is one look at all of them every fifteen days. Info.Counts says
// how many entries of each kind there are.
//
// # Sealing
//
// With WithAEAD every value is sealed, bound to its key. The checksum stands
// over the seal, so damage and a missing key are two things. Damage is set
// aside. A key that was not given is ErrWrongKey, for the whole device at
// loading, and nothing is written over. A sealed row that was moved or changed
// by somebody who also knows how to make its checksum right fails its seal,
// and is set aside. Plain rows are refused where sealing is required
// (ErrNotSealed).
//
// Keys are changed with NewAESGCM(key, old...): rows under the old ones are
// read, and rows that are written get the new one. Container.Reseal rewrites
// the rest, a chunk at a time between the commits of a device that goes on
// working. Turning sealing on (WithPlaintextAllowed) and off
// (WithSealingRemoved) goes the same way. Reseal may be broken off anywhere
// and repeated.
//
// Names are sealed with the values: the KV is given keyed hashes instead of
// addresses, groups and message ids. It still sees how many rows of which kind
// there are, and when they change. An account that begins sealed has such
// names from the beginning. One that began without is moved when
// WithSealedNames is given, in the background and by Reseal. The steady state
// costs no read and no commit more. A library that does not know sealed names
// finds ErrNewerFormat in an account that has them and writes nothing to it.
// So during a rolling deploy pass the option last, when every instance knows
// it; a new account should not be paired before that either, or its older
// instances cannot take over.
//
// # Moving
//
// Import takes a device over from whatsmeow's sqlstore (FromSQL) or another KV
// (FromKV), under a generation of its own, which nothing loads. It reads all
// of it back, and compares it with the source, read a second time. Only then
// the head names it. Broken off anywhere it goes on with the next call;
// DropImport removes what it has left. Export and Restore do the same with an
// encrypted archive. A backup has ratchets that went on: Restore drops the
// sessions and our own sender keys, and lets new prekeys be uploaded, unless
// the device was not used since.
//
// # Deletion
//
// whatsmeow deletes a device by itself when the service says that it was
// logged out. The head then says deleted, when and why; the rows stay, the
// Device is over, and Container.Restore brings it back until it is purged for
// good (Container.PurgeDevice) or another device is paired. That takes a new
// generation. The old one is purged when the service has taken prekeys of the
// new device, in chunks that a later load takes up again. A device that is
// deleted before has never logged in, and its predecessor is the one that can
// be restored. The LID map is the account's and stays.
package authstore
