// Package firestorebackend keeps an account on Cloud Firestore (native mode):
// its lock, its session, its state and its incidents, under one document, the
// root. Several accounts share a client; each needs a root of its own.
//
//	client, err := firestorebackend.NewClient(ctx, "my-project")
//	backend, err := firestorebackend.New(client, firestorebackend.WithRoot("wa_metrics/longrun"))
//	m, err := stability.New(stability.WithBackend(backend))
//
// # Documents
//
//	{root}/locks/wa_connection                   holderInstanceId leaseUntil(ms) acquiredAt updatedAt leaseEpoch leaseMs nonce
//	{root}/locks/wa_connection_fence             epoch nonce holderInstanceId leaseMs updatedAt; lastWrite, after a commit; released, after a release
//	{root}/whatsmeow_auth/creds                  creds{…} updatedAt format
//	{root}/whatsmeow_auth/creds/keys/{type}_{id} data updatedAt     large values; a small one where its bucket is full
//	{root}/whatsmeow_auth/creds/keys/{type}_~{n} data{id: …} updatedAt   buckets: small values, a field each
//	{root}/state/wa_connection                   the fields of reconnect.State
//	{root}/incidents/{id}                        the fields of guard.Incident, version, turnedBy, expireAt once resolved
//
// In ids a character that is not plain stands as %XX, and an id that is too
// long as = and its SHA-256. An id of its own is in a field then.
//
// # The lock
//
// Everything is compare-and-set on a document's update time, which the server
// assigns; there is no transaction. The server alone says whether a lease has
// run out: by its time of the read, the update time of the document (the last
// renewal) and leaseMs. No clock of a host is part of any decision. leaseUntil
// is for people.
//
//   - A term begins with one commit of two documents: the lock, on condition
//     that it is as it was read, and the fence, with the new epoch. The nonce
//     of the attempt is in the lock. After an unclear error the lock is read
//     again. Our nonce means that it is held. If the document is unchanged,
//     the same compare-and-set is sent again.
//   - A renewal changes the lock only, under its last update time: one request,
//     one write. It never touches the fence, so it never meets a commit.
//   - A release frees the lock and closes the fence in one commit: the epoch
//     of a released term writes no more, and requests that are still on their
//     way come too late.
//   - A document that was removed or edited by hand is no proof that the lock
//     is free. If the lock document is gone, the holder's next renewal is
//     lock.ErrLost. Another instance puts a document without a holder there,
//     waits for one lease, and goes on counting from the fence; the last
//     holder itself need not wait. If both documents are gone and the account
//     has a device, it is the same, and epochs go on from the server's time in
//     seconds, which no count of terms has reached. A document that this
//     library cannot have written is ErrDamaged, except to the holder, whose
//     next renewal repairs it. acquiredAt, updatedAt and leaseUntil are for
//     people.
//
// # The fence
//
// A commit is one request: the documents that change, and the fence, whose
// field lastWrite gets a name of the commit's own. Its condition is that the
// fence's update time is the one that this term knows, its token. The answer
// has the next token. So a request lands once at most, however often it
// arrives, and never behind one that was sent after it. That holds also for
// the first of two that the Firestore client sends by itself within one call.
// Commits of session and state come one after the other. A new term moves the
// fence too, so an older one writes nothing from then on, whole or in part.
// The token comes from Acquire. A backend that is given an epoch it did not
// acquire reads the fence and moves it. So there is one writer, and its memory
// of the documents is true. Beside the epoch the fence has the nonce of the
// acquisition, and a backend that knows another one for the same epoch is
// fenced.
//
// A refusal may mean that the first of two requests has landed, or that
// somebody else has moved the fence. The fence is read: the commit's name in
// it means that it has landed. While there is no answer the same request is
// sent again. If that ends without one, the fence is moved before anything
// else is written, so that requests still on their way come too late. ABORTED
// counts as no answer, since it may be the answer to a repetition.
//
// A fence document that is older than the token, as after an import, is found
// when it refuses a write: it is read, and its epoch decides whether the term
// goes on.
//
// # The session
//
// Firestore bills documents, so small values of a kind share a bucket, chosen
// by a hash of the id, and a commit writes the fields that change. A bucket
// never outgrows its document. Its weight is known exactly to the one writer,
// from the scan at the start, or from reading the bucket when it is first
// touched. A value that would bring it over its bound, 640 KiB at most, or
// over 4,000 entries, gets a document of its own; so do values over 32 KiB. A
// key stands in one place: the commit that moves it removes it from the other.
// A bucket says whether any of its keys are elsewhere, so a read of a key is a
// read of its bucket. Large values are at most 1,000,000 bytes (authstore
// splits what is larger), a commit 1,800,000 bytes and 1,500 keys: a request
// stays below 4 MiB.
//
// A cold start is two rounds of requests: the account's record, then all kinds
// at once, each with one query.
//
// The arrangement has a version, in creds.format. A newer one is
// authstore.ErrNewerFormat and stays as it is, as do the state and incidents of
// newer formats. Within a version old and new libraries run side by side.
//
// # Errors
//
// ErrUnavailable, ErrQuota, ErrPermission and ErrDatabaseNotFound say what is
// wrong and what to do. A read that fails is an error, never an absence: no
// failure makes a fresh device. Requests take 5 s at most (WithTimeout), and are
// repeated a few times within the caller's context. Between them are pauses, of
// lock, session, state and incidents each by itself, and of reads and writes.
// They double, and one success ends them:
//
//   - After ErrQuota, ErrPermission and ErrDatabaseNotFound no request is made
//     for 1 s, then 2, 4, 8, 10 (the lock: 5 in the first minute), however many
//     were refused at once. Calls return the same error at once meanwhile. A
//     pause is well within authstore's patience of 30 s.
//   - After ErrUnavailable it is 0.1 s, then doubled up to 2 s, and up to 10 s
//     once the outage has lasted for a minute. A call waits for the end of the
//     pause where its timeout allows, so a moment without service is no error.
//
// So a long outage costs 6 requests a minute for each of these, and its end is
// noticed 10 s later at the latest. The listener pauses up to 30 s by itself.
// Credentials that are not accepted, and a token that could not be fetched, are
// ErrUnavailable, too: they may pass by themselves.
//
// Firestore's client repeats UNAVAILABLE, and of a write RESOURCE_EXHAUSTED, by
// itself until the timeout, and then hides which it was. On a client of NewClient
// (or with DialOptions) it does not do that to requests of this package. On
// another both are ErrUnavailable, whose text says so, and each request of the
// above is several.
//
// For the lock ErrPermission, ErrDatabaseNotFound and ErrDamaged become
// permanent (backoff.Permanent) once an operation has failed so for a minute,
// and ErrClosed at once: lock.Lease returns them. Run and Activate go on
// trying all the same, with the error in the log and in
// Status().StoreUnavailable: when a person has mended it, no restart is
// needed. For the session all are transient, on purpose: authstore waits, then
// ends the term with its connection, and unacknowledged messages stay with the
// service. Were a missing permission permanent there, each message would fail
// to decrypt for good. A write that Firestore refuses as invalid, under a
// fence that is as it was, is authstore.ErrTooLarge, which is permanent.
//
// # Watching
//
// Changes listens to the lock document. A listener can fall silent without an
// error, so it only wakes; behind it stands a look at the lock every 10 s
// (WithPoll), unless an attempt to acquire has looked meanwhile. A listener that
// misses what a look finds is replaced, as is one that ends.
//
// # What it costs
//
// With refresh r (30 s) and poll p (10 s, the lesser of WithPoll and that of
// lock.Lease):
//
//	holder, idle:  86,400/r writes a day, no read                 2,880 writes
//	standby:       86,400/r reads of the listener + 86,400/p      2,880 + 8,640 reads
//	a takeover:    2 reads and 2 writes; a release: 2 writes
//	a commit:      1 write for the fence + 1 for each document; no read
//	a send to one: 1 commit, 2 writes, and a 16th for what is kept of it
//	the state:     2 writes; the first of a term also 1 read
//	an incident:   1 read and 1 write
//	a cold start:  1 read for each document, at least 1 for each kind
//
// A send is kept for recipients who ask again. It stands in the session's document,
// which is written anyway, until sixteen of them make a document; one of more than
// 4 KiB (a picture's preview) makes one at once: 3 writes. So does each send of a
// newer whatsmeow that keeps sent messages by itself.
//
// In requests, for one holder and one standby: 86,400/r + 86,400/p a day, 1
// for each message in either direction, and about 40 for each deploy. These
// are 13 queries of the cold start, the lock, the state, and the writes of
// whatsmeow on connecting.
//
// The table below is in money, for one holder, one standby and 30 days. Half of
// the messages are received and half sent. Prices are the list of us-central1
// ($0.03, $0.09 and $0.01 for 100,000 reads, writes and deletes), before the free
// tier of 50,000 reads and 20,000 writes a day:
//
//	messages a day   reads a day   writes and deletes a day   a month
//	             0        11,520        2,880                  $0.18
//	         1,000        11,520        6,411 and    500       $0.28
//	       100,000        11,520      356,005 and 50,000       $9.87
//
// A message received is 4 or 5 document writes. One sent is 2, and one sent to a
// group of 256 is 19. Keeping a sent message is a 16th (1 with newer versions of
// whatsmeow, which keep it by themselves). The rest is the lock. BENCHMARKS.md has
// the measurements.
//
// # The client
//
// NewClient adds gRPC keepalives to Firestore's own client: a connection that
// falls silent without being closed is replaced within 25 s. Without them every
// request on it times out, for 15 minutes and more, and the lease is lost. A
// client of your own takes them from DialOptions, and a warning says so when
// renewals stay unanswered. In a long outage a client of NewClient asks a tenth
// as often.
//
// # Setting up
//
// The service account needs roles/datastore.user, nothing else. Deploy
// firestore.rules (no client has access) and firestore.indexes.json (nothing here
// is queried by field, so nothing is indexed) of this folder:
//
//	firebase deploy --only firestore
//
// Use it in a project of its own. The command replaces the rules of the whole
// database, and takes the file for all of its indexes and exemptions. Those
// that are not in it are deleted once that is confirmed, with --force unasked.
// In a project that others use too, merge both files into those that it has.
// An exemption counts for every collection of that name, wherever it stands.
// Those of state and incidents are for all fields (*), so queries by field in
// other collections with these names would fail.
//
// Without the exemptions everything works; writes are slower and cost more
// storage. An optional TTL policy removes resolved incidents 90 days after
// (WithRetention):
//
//	gcloud firestore fields ttls update expireAt --collection-group=incidents --enable-ttl
//
// The collection keys needs none: authstore.Retention says what goes there, and
// when, and a message that no handler has finished stays.
//
// The rate that one document sustains depends on the workload; Firestore states no
// fixed limit. Commits of an account are sent one after the other, so they do not
// contend, and there are about as many in a second as round trips fit into it:
// about 1/latency. Each changes the fence, and each message its bucket of
// events, so these two documents change as often as messages come.
// Measure what your project carries before you promise it; about 7 writes a
// message, which are removed at the end:
//
//	GOOGLE_CLOUD_PROJECT=$PROJECT go run ./examples/firestore -load 1000
//
// # Deploying
//
// For Cloud Run see deploy/cloudrun.yaml: CPU that is always on, because a
// connection is work without a request, and WithShutdownTimeout(1s), since Cloud
// Run kills after 10 s.
//
// On Railway and on Kubernetes the same program runs with
// GOOGLE_APPLICATION_CREDENTIALS pointing to a key file of that service account, or
// with workload identity. The liveness probe is /health, the readiness probe
// /ready?standby=ok. A new replica is ready when it stands by, so that the platform
// goes on to end the old one.
//
// # Removing an account
//
// Backend.Destroy takes the lock for as long as it lasts, so nobody begins
// meanwhile. One that was broken off may be called again at once; until then a
// holder of the lock finds a session without its creds, which is
// authstore.ErrCorrupt, or nothing. Documents that this library has not
// written stay, the root itself among them.
package firestorebackend
