// Package sqlcompare runs the same random sequences of store calls on
// authstore and on whatsmeow's own sqlstore, and compares the answers. It is a
// module of its own because of the SQL drivers.
//
// BenchmarkStore lets one client run on sqlstore over SQLite and PostgreSQL
// (if initdb and postgres are installed), on a naive adapter and on authstore,
// in turns. BenchmarkThroughput does so with a whole Manager. BenchmarkMemory
// tells what a loaded device holds.
//
// go.mod here pins the whatsmeow of the library. To compare with another one's
// sqlstore, run .ci/newest DIR sqlcompare, where DIR is a checkout of it: the
// suite runs in a copy, in which that whatsmeow takes the pinned one's place.
// Methods that only newer versions ask for (trusted-contact tokens with a
// sender's time, NCT salt, outgoing events, all app-state keys) are compared
// where sqlstore has them. The list below was true of 2025-12-17 and of
// 2026-08-21, except where it names one of them.
//
// # Deviations
//
// These calls authstore answers differently, for a reason. The comparison leaves
// them out, or checks each store against its own rule.
//
//   - DeleteAllIdentities and DeleteAllSessions also delete the rows under the
//     user's LID address and its other name: whatsmeow passes the bare user of
//     the notification, under which no row of a LID session stands.
//   - DeleteIdentity compares addresses. sqlstore matches a pattern, in which
//     the "_" of a LID address stands for any character.
//   - MigratePNToLID replaces the user at the front of the address. sqlstore
//     replaces every occurrence of the number, in the device part too. A
//     failed migration is tried again. Afterwards GetManySessions refuses the
//     number's own addresses, if its LID is known: a session made there would
//     be lost to every answer.
//     Sender keys move with a session or an identity of their user; alone they
//     stay: they came through a session.
//   - A session or a sender key that does not parse counts as missing when it
//     is first read. sqlstore returns it.
//   - Prekey ids come from a counter. sqlstore takes the highest that exists
//     plus one, and so offers the id of a removed key again.
//   - PutPrivacyTokens keeps the newer of two tokens, as sqlstore of 2026 does;
//     that of 2025 lets an older one replace it. sqlstore fails when one call
//     names a user twice. A sender's time of 1970, which a history sync gives where there
//     is none, leaves the stored one; sqlstore takes it over.
//   - GetOutgoingEvent gives no error when there is no such event; sqlstore gives
//     sql.ErrNoRows. whatsmeow reports either and answers the retry receipt with
//     nothing.
//   - DeleteOldOutgoingEvents returns at once: what is older than seven days, and
//     what is beyond the newest 10,000, goes beside the sends, twice a day.
//   - DeleteNCTSalt and PutNCTSalt ride with the next write, like tokens.
//   - GetManyLIDsForPNs keeps device numbers. sqlstore loses them when its
//     cache is cold.
//   - PutLIDMapping takes both directions as unique. sqlstore's cache still
//     answers for the LID that a number had before.
//   - PutAppStateMutationMACs needs no version row, and may be repeated.
//     sqlstore's foreign and primary keys refuse both. Index and value MACs
//     may have any length. PutAppStateVersion and DeleteAppStateMutationMACs
//     are durable with the PutAppStateMutationMACs that follows.
//   - GetLatestAppStateSyncKeyID and GetAllAppStateSyncKeys: of keys with the
//     same timestamp either may come first.
//   - PutAllContactNames and PutManyRedactedPhones: of several entries for one
//     user the last counts: it is the newest. sqlstore keeps the first.
//   - GetContact: sqlstore may answer from a cache that PutManyRedactedPhones
//     with an empty number has made stale.
//   - PutDevice writes everything, keys included. sqlstore's update writes
//     names and the LID only.
//   - DeleteDevice keeps the rows until another device is paired, privacy
//     tokens included, which then go with the rest.
//   - DeleteOldBufferedHashes deletes for this device. sqlstore deletes for all
//     in the database.
//   - After DeleteDevice every method fails, reads too; sqlstore's reads find
//     nothing and its writes fail on the foreign key.
package sqlcompare
