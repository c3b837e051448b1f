package term

// rule says what is done about one kind of evidence, in some phases of the
// term and of the newest connection, and into which phases it may lead. Of
// several rules that fit, the first counts. A phase may always stay as it is.
type rule struct {
	on   kind
	term Phase
	conn Conn
	do   func(*Core, Evidence) // nil: it changes nothing
	to   Conn                  // where the connection may be then
	then Phase                 // where the term may be then
	why  string
}

// table is everything that the Manager does about evidence. Read it by the
// first column. For example: the service sends a stream error 515 during a
// hand-over. The tap sees it (onSawEnd), and the term is Leaving. A connection
// that is live ends for that reason. The hand-over goes on: it is the first of
// the duties (next.go). The end is told with the reason handed_over
// (onStepDown), which ranks higher than restart_required. A connection that was
// down before keeps the better one of its reasons. In no case is an attempt
// planned or begun: the term ends.
var table = []rule{
	// The term.
	{onStop, holding, anyConn, stop, 0, Leaving, "nothing is begun any more, and the loop tears down"},
	{onStop, ending, anyConn, nil, 0, 0, "a term ends once"},
	{onCutTerm, holding, anyConn, cutTerm, Ended, Dropped, "the connection ends with the term, at once"},
	{onCutTerm, ending, anyConn, cutTermLate, Ended, 0, "the term ends already; the connection ends now"},
	{onTornDown, Leaving | Dropped, anyConn, tornDown, 0, Finished, "nothing of it is left"},
	{onTornDown, holding | Finished, anyConn, nil, 0, 0, "only behind TearDown"},
	{onSaveDone, anyTerm, anyConn, saveDone, 0, 0, "written down, or to be tried again"},
	{onProveStore, holding, anyConn, proveStore, 0, 0, "a save tells whether the backend answers"},
	{onProveStore, ending, anyConn, nil, 0, 0, "the end of the term saves anyway"},
	{onRestartRecorded, Breaking, anyConn, restartRecorded, 0, Broken | Working, "without the record nothing is broken"},
	{onRestartRecorded, Working | Broken | Yielding | ending, anyConn, restartLate, 0, 0, "the term ends for another reason: it is remembered"},
	{onLoopTold, Broken, anyConn, loopTold, 0, Leaving, "now the term ends"},
	{onLoopTold, Yielding, anyConn, yieldTold, 0, Leaving, "now the lock is given up"},
	{onLoopTold, Working | Breaking | ending, anyConn, nil, 0, 0, "the term ends for another reason"},

	// The device.
	{onDeviceRead, anyTerm, anyConn, deviceRead, 0, 0, "the store has the last word on whether it is paired"},
	{onDeviceDeleted, holding, between, deviceDeleted, 0, 0, "no reason is on its way: somebody logged out"},
	{onDeviceDeleted, holding, live, deviceDeletedLive, 0, 0, "the reason is on its way, or the connection must not go on"},
	{onDeviceDeleted, holding, Ended | Drained, deviceMarked, 0, 0, "what follows the end sees to it"},
	{onDeviceDeleted, ending, anyConn, deviceMarked, 0, 0, "the next term reads it anew"},
	{onDeviceRestored, holding, anyConn, deviceRestored, Ended, 0, "it is read again, for another client; nobody must scan a code for the one before it"},
	{onDeviceRestored, ending, anyConn, nil, 0, 0, "the next term reads it"},
	{onPhoneAccepted, anyTerm, live &^ Up, phoneAccepted, Accepted, 0, "the service ends this connection next, and is given the time for it"},
	{onPhoneAccepted, anyTerm, Up | down | NoConn, phoneAcceptedLate, 0, 0, "the next connection logs in"},

	// The attachment.
	{onAttach, holding, anyConn, attach, NoConn, 0, "one client at a time; the one before it was retired"},
	{onAttach, ending, anyConn, nil, 0, 0, "nothing is begun any more"},
	{onReady, holding, anyConn, ready, 0, 0, "the first attempt is planned, and made unless a loop is broken"},
	{onReady, ending, anyConn, nil, 0, 0, "nothing is begun any more"},
	{onSchedule, holding, between | down, schedule, 0, 0, "at the time of the newest decision, if that allows it"},
	{onSchedule, holding, live, nil, 0, 0, "connected, or on the way"},
	{onSchedule, ending, anyConn, nil, 0, 0, "nothing is begun any more"},
	{onAsk, holding, anyConn, ask, 0, 0, "codes are offered again"},
	{onAsk, ending, anyConn, nil, 0, 0, "the next term decides"},
	{onAgain, holding, between, againNow, 0, 0, "the attempt is made now, unless a ban forbids it"},
	{onAgain, holding, live | Ended | Drained, againSoon, Ended, 0, "it ends for the reason given, and another one begins"},
	{onAgain, ending, anyConn, nil, 0, 0, "the next term connects"},
	{onReplace, anyTerm, live, replaceLive, Ended, 0, "it ends without anything to follow"},
	{onReplace, anyTerm, between | down, replaceDown, 0, 0, "why it ended is known better"},
	{onStepDown, anyTerm, live | Ended | Drained, stepDown, Ended, 0, "an attempt that is cut short says nothing about the outage"},
	{onStepDown, anyTerm, between, nil, 0, 0, "there is nothing to end"},
	{onRetire, anyTerm, Ended | Drained, retireDown, Over, 0, "told; what it means for the device is seen to if another client took its place"},
	{onRetire, anyTerm, between | live, retire, Ended, 0, "whatever it has open ends"},
	{onGivenUp, holding, Ended | Drained, givenUpDown, Over, Breaking, "what follows the end is decided before there is another client"},
	{onGivenUp, ending, Ended | Drained, givenUpDown, Over, 0, "the same, and nothing is begun"},
	{onGivenUp, anyTerm, between | live, givenUp, Ended, 0, "no two clients on one device: another one is read"},

	// The socket.
	{onSocket, ending, anyConn, refuse, 0, 0, "nothing is begun any more"},
	{onSocket, holding, Opening, socketOpen, Dialed, 0, "it belongs to the attempt that is under way"},
	{onSocket, holding, Foreign, socketOpen, Waiting, 0, "it belongs to the connection that came by another way"},
	{onSocket, holding, Ended | Drained, socketLate, Waiting, 0, "an attempt that was ended before it dialed is cut now"},
	{onSocket, holding, live | between, socketOfHost, Waiting, 0, "the host connects by itself: the one before it is given up"},
	{onSocketGone, anyTerm, live, socketGone, Ended, 0, "whoever closed it, it ends"},
	{onSocketGone, anyTerm, down | NoConn, nil, 0, 0, "it has ended already"},
	{onCallReturned, Leaving, live, callReturnedLeaving, Ended | Waiting | Foreign | Up, 0, "an attempt that was cut short for the hand-over says nothing"},
	{onCallReturned, anyTerm, live, callReturned, Ended | Waiting | Foreign | Up, 0, "an error ends it; else the login must come in time"},
	{onCallReturned, anyTerm, down, callReturnedLate, 0, Breaking, "an error may say more about the end"},
	{onCallReturned, anyTerm, NoConn, nil, 0, 0, "of no connection"},

	// The login.
	{onSawLogin, anyTerm, anyConn &^ NoConn, tapSawLogin, 0, 0, "whatsmeow says so next"},
	{onSawLogin, anyTerm, NoConn, nil, 0, 0, "of no connection"},
	{onSawService, anyTerm, live, tapSawService, Up, 0, "a login that the tap has missed is believed now"},
	{onSawService, anyTerm, down | NoConn, nil, 0, 0, "it has ended already"},
	{onToldLogin, anyTerm, Opening | Foreign, toldLoginEarly, 0, 0, "not through our dialer, or an earlier one's: it waits until connect returns"},
	{onToldLogin, anyTerm, Dialed | Waiting | Offering | Passkey | Accepted, toldLogin, Up, 0, "believed when the tap agrees or is blind"},
	{onToldLogin, anyTerm, Up | down | NoConn, nil, 0, 0, "whatsmeow may say so seconds after the socket died"},

	// Health.
	{onSeen, Working, between | live, see, Ended, 0, "judged; a connection on which nothing is heard any more ends"},
	{onSeen, Working, Ended | Drained, nil, 0, 0, "it is being brought to its very end: nothing is to be judged"},
	{onSeen, Breaking | Broken | Yielding | ending, anyConn, nil, 0, 0, "the term ends, for a reason that is told"},
	{onPinged, anyTerm, live, pinged, 0, 0, "counted; it is judged at the next look"},
	{onPingsFailed, anyTerm, live, pingsFailed, 0, 0, "counted; it is judged at the next look"},
	{onPinged, anyTerm, down | NoConn, nil, 0, 0, "it has ended already"},
	{onPingsFailed, anyTerm, down | NoConn, nil, 0, 0, "it has ended already"},

	// The end.
	{onSawEnd, anyTerm, live, tapSawEnd, Ended, 0, "the first cause ends it, unless it is of an earlier one"},
	{onSawEnd, holding, down, tapSawEnd, 0, Breaking, "a better reason may come later"},
	{onSawEnd, ending, down, tapSawEnd, 0, 0, "a better reason may come later; nothing follows it"},
	{onSawEnd, anyTerm, NoConn, nil, 0, 0, "of no connection"},
	{onToldEnd, anyTerm, live, whatsmeowToldEnd, Ended, 0, "unless the tap would have seen it: then it is an earlier one's"},
	{onToldEnd, anyTerm, down, whatsmeowToldEnd, 0, Breaking, "a better reason may come later"},
	{onToldEnd, anyTerm, NoConn, nil, 0, 0, "of no connection"},
	{onOverdue, anyTerm, live &^ (Up | Offering | Passkey | Accepted), overdue, Ended, 0, "the lock is to be given up, and nothing has come of it"},
	{onOverdue, anyTerm, Up | Offering | Passkey | Accepted | down | NoConn, nil, 0, 0, "something has"},
	{onHostEnd, anyTerm, NoConn, hostEndUnseen, Ended, 0, "an attempt that the dialer never saw"},
	{onHostEnd, anyTerm, live | down, hostEnd, Ended, Breaking, "what the host knows counts like any other evidence"},
	{onLoggedOut, anyTerm, live | down, loggedOut, Ended, Breaking, "the service removed the device"},
	{onLoggedOut, anyTerm, NoConn, nil, 0, 0, "of no connection"},
	{onLate, anyTerm, Ended | Drained, late, 0, 0, "the observers wait neither for a handler that is stuck nor for the lock"},
	{onLate, anyTerm, NoConn | live | Over, nil, 0, 0, "told already, or not ended"},
	{onCleanedUp, holding, Ended, cleanedUp, Drained | Over, Breaking, "what follows is decided; for a replacement the lock is asked before"},
	{onCleanedUp, ending, Ended, cleanedUp, Drained | Over, 0, "the same, and nothing is begun"},
	{onCleanedUp, anyTerm, anyConn &^ Ended, nil, 0, 0, "a newer client has seen to it"},
	{onLockAsked, anyTerm, Drained, lockAsked, Over, Breaking, "what follows is decided"},
	{onLockAsked, anyTerm, anyConn &^ Drained, nil, 0, 0, "a newer client has seen to it"},

	// Pairing.
	{onCodes, anyTerm, live &^ Up, codes, Offering, 0, "they are shown one after the other"},
	{onCodes, anyTerm, Up | down | NoConn, nil, 0, 0, "nobody could scan them"},
	{onPhoneCode, anyTerm, Offering, phoneCode, 0, 0, "it can be typed as long as codes to scan are shown"},
	{onPhoneCode, anyTerm, anyConn &^ Offering, nil, 0, 0, "of no offer that is under way"},
	{onPasskeyAsked, anyTerm, pairing, passkeyAsked, Passkey, 0, "the codes are of no use any more, and a person has some minutes"},
	{onPasskeyAsked, anyTerm, anyConn &^ pairing, nil, 0, 0, "of no pairing that is under way"},
	{onPasskeyFailed, anyTerm, Passkey, passkeyFailed, Ended, 0, "the pairing failed"},
	{onPasskeyFailed, anyTerm, Offering, passkeyUnread, 0, 0, "what was asked could not be read: the code can be scanned again"},
	{onPasskeyFailed, anyTerm, anyConn &^ pairing, nil, 0, 0, "of no pairing that is under way"},
}
