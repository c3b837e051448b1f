// Package wasim is a simulated WhatsApp service that real, unmodified
// whatsmeow clients connect to: a test kit, for this library and for the
// programs of its hosts. It was written from whatsmeow's source and has not
// been compared with the real service.
//
// # Starting
//
//	s := wasim.New(wasim.WithTB(t))  // closes itself with the test
//	http := &http.Client{Transport: s.Transport()}
//	client.SetWebsocketHTTPClient(http)
//	client.SetPreLoginHTTPClient(http)
//	client.SetMediaHTTPClient(http)
//
// or, with this library, stability.WithTransport(s.Transport()). The service
// answers for every host that is dialed, with a certificate that the transport
// trusts. Without more, connections are in memory, and the service can live in
// a testing/synctest bubble; Listen puts it on a loopback TCP port instead.
//
// The first New of a process overrides whatsmeow.WACertPubKey, which all
// clients of a process share. Importing the package changes nothing.
//
// # Accounts, phones, contacts
//
//	acct := s.NewAccount("491700000001")     // a number and a LID
//	acct.Phone().Scan(code)                  // pairs who shows this QR code, of older or newer clients
//	acct.Phone().EnterCode("ABCD-EFGH")      // pairs who called PairPhone
//	acct.Phone().Scan(code, wasim.AskForPasskey())  // newer clients must give a passkey first
//	acct.Phone().RemoveDevice(acct.Devices()[0])
//	bob, err := s.NewContact(ctx, "491700000002")  // a real client, connected
//	bob.Send(ctx, acct.JID(), "hello")
//	bob.Received()                           // what came, with retry counts
//	s.NewGroup("team", acct, bob.Account())
//	s.NewGroup("crowd", append(s.Ghosts(254), acct, bob.Account())...)
//
// An account's device list holds its linked devices. The phone itself (device
// 0) is in it only with WithPhones. Ghosts are accounts with a device that has
// keys and nobody behind it: what is encrypted for it is counted and dropped.
//
// A phone writes without a client, and as fast as it can encrypt:
//
//	ids, err := carol.Phone().Send(acct.JID(), texts...)  // a deep backlog
//	carol.Phone().SendUnreadable(acct.JID(), message)     // does not decrypt
//	acct.Phone().SendHistory(piece)                       // to its own devices
//	acct.Phone().ShareAppStateKeys()
//	acct.Phone().Patch(appstate.BuildPin(chat, true))     // BadPatch, MendPatch
//	acct.Phone().RotateAppStateKey()                      // devices have to ask for it
//
// Phones are off at first. One that is on (Phone.On) answers retry receipts
// for its own messages, and requests of its devices. It sends a message again
// that they could not read, if a contact or a phone of this process wrote it,
// and it shares app state keys. A device can ask once the phone has written to
// it. Phone.Late answers late, Phone.ByOtherName with the other name of a
// user. What a phone writes after Phone.AsAppData comes as <appdata>.
//
// # What the service does
//
//   - Login: compares the Noise key with the one of the pairing; failure 401
//     for a wrong one or an unknown device. A second login of a device sends
//     the first one stream:error with conflict replaced.
//   - Messages are kept for each device until it acknowledges them (a delivery
//     receipt, or an ack) and sent again after the next login, marked offline,
//     before <ib><offline count=…/>. So are receipts and notifications.
//     Device.Acks is the log of what was acknowledged and when, and
//     Device.AckedMessages its messages; Device.Pending is what was not.
//   - One-time prekeys are handed out once. An id given to a second key is
//     refused.
//   - Receipts are passed on, retry receipts included, so that a message that
//     did not decrypt is sent again by its sender.
//   - Two clients that begin sessions with each other at the same moment need
//     retry receipts: libsignal changes a session when it tries a message with
//     the wrong one. A test that counts retries exchanges a message each way
//     first.
//   - Messages are not deduplicated: a client that sends one again after a
//     lost acknowledgement makes two.
//   - App state is empty until the account's phone writes some; devices may then
//     write too. There are no snapshots of it, no media, newsletters or calls.
//   - A stanza that the service does not know is answered with an error,
//     recorded (Unknown) and fails the test; so does what the real protocol
//     forbids (Violations). A stanza of an earlier login that comes while the
//     client pairs anew is ignored and counted (Strays).
//
// # Older and newer clients
//
// One service serves both, told apart by what they send: the text of their QR
// codes, their telemetry, the addresses they use. Options decide what a client
// cannot:
//
//	wasim.WithCompression()   // permessage-deflate for who offers it; Compression counts
//	wasim.WithLIDFirst()      // contacts address direct messages by LID
//	wasim.WithPhones()        // device 0 is in the device lists
//
// A newer client also checks the bounds of the Noise certificate:
// CertificateValid shows one that has expired.
//
// # Faults
//
// A fault is prepared, aimed and armed:
//
//	s.Fault(wasim.StreamError("503")).For(jid).Now()
//	s.Fault(wasim.BlackHole()).For(jid).AfterStanzas(20)
//	s.Fault(wasim.Failure(503)).Times(3).OnNextLogin()
//	f := s.Fault(wasim.Refused()).From("instance-a").Always().Now()
//	f.Stop()
//
// Faults of connecting strike the next attempts; before the login the service
// does not know who is connecting, so aim them with From and a labelled
// Transport. Stop, or Heal for all, undoes what can be undone.
//
// Some faults strike single messages and queries, and leave the connection up:
//
//	s.Fault(wasim.MessageNack(463)).For(jid).To(bob.JID()).Always().Now()
//	s.Fault(wasim.MessageNack(463)).For(jid).ToNewChats().Always().Now()
//	s.Fault(wasim.MessageIgnored()).For(jid).Always().Now()
//	s.Fault(wasim.QueryError("usync", "get", 429, "rate-overlimit")).For(jid).Now()
//	s.Fault(wasim.QueryIgnored("encrypt", "get")).For(jid).Times(3).Now()
//
// Stanza and LastStanza send any stanza at all, TextFirst and StrangeFrames what
// is none. Device.DropPreKeys makes the
// service ask for prekeys. Group.WithoutKeys withholds senders' keys from members,
// Group.Mangle makes senders' messages malformed. Contact.Reinstall gives an address a new identity;
// Account.TellIdentityChanged tells those who know the account.
//
// # Starting again, and other processes
//
// SaveFile and Open keep the accounts in a file: a paired client logs in to
// the loaded service, and gets what it has not acknowledged. NewContact on a
// saved number pairs the contact anew, in place of its old device. A phone begins
// anew too: without sessions, app state, and memory of what was written.
//
// A client in another process, to be killed or frozen, gets the service's
// Endpoint (it is JSON) and makes its transport from that. The service must
// Listen.
//
// # In a bubble
//
// Make and close the service inside the bubble. A bubble ends only when all
// its goroutines have ended. End links from the service's side, never with
// Client.Disconnect on a live one: that holds a mutex while it waits for the
// network, and so stops the virtual clock. Contacts and Close do it right.
package wasim
