// Package sqlcompare runs the same random sequences of store calls on
// authstore and on whatsmeow's own sqlstore, and compares the answers. It is a
// module of its own because of the SQL drivers.
//
// BenchmarkStore lets one client run on sqlstore over SQLite and PostgreSQL (if
// initdb and postgres are installed), on a naive adapter and on authstore, in
// turns; BenchmarkThroughput does so with a whole Manager; BenchmarkMemory
// tells what a loaded device holds.
//
// # Deviations
//
// What authstore answers differently, and why. The comparison leaves these
// calls out, or checks each store against its own rule.
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
//   - PutPrivacyTokens keeps the newer of two tokens. sqlstore lets an older
//     one replace it, and fails when one call names a user twice.
//   - GetManyLIDsForPNs keeps device numbers. sqlstore loses them when its
//     cache is cold.
//   - PutLIDMapping takes both directions as unique. sqlstore's cache still
//     answers for the LID that a number had before.
//   - PutAppStateMutationMACs needs no version row, and may be repeated.
//     sqlstore's foreign and primary keys refuse both. Index and value MACs
//     may have any length. PutAppStateVersion and DeleteAppStateMutationMACs
//     are durable with the PutAppStateMutationMACs that follows.
//   - GetLatestAppStateSyncKeyID: of keys with the same timestamp either may
//     be named.
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
