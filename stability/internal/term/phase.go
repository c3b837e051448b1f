package term

import (
	"fmt"
	"math/bits"
	"strings"
)

// Phase is where the term itself stands. Phases are bits, so that a rule can
// name several.
type Phase uint8

// The phases of a term.
const (
	Working  Phase = 1 << iota // connects and stays connected
	Breaking                   // a reconnect loop is to be broken: the restart is being recorded
	Broken                     // the restart is recorded: people are told, then the term ends
	Yielding                   // the lock is given up to an instance that may be fit: people are told, then the term ends
	Leaving                    // the term ends in good order: handlers finish, everything is written down
	Dropped                    // the term ends at once: the lock is lost, or the store cannot be used
	Finished                   // everything is torn down

	anyTerm = holding | ending
	holding = Working | Breaking | Broken | Yielding // this instance may use the connection
	ending  = Leaving | Dropped | Finished           // nothing is begun any more
)

// Conn is where the newest connection stands. There is one at most.
type Conn uint16

// The phases of a connection.
const (
	NoConn   Conn = 1 << iota // there has been none on this attachment
	Opening                   // connect runs, and the dialer has seen no socket yet
	Dialed                    // the dialer saw the socket, and connect has not returned
	Foreign                   // connect has returned, and the dialer never saw a socket
	Waiting                   // the socket is open: a login or codes to scan must come in time
	Offering                  // codes to scan are shown, one after the other
	Passkey                   // a code was scanned, and WhatsApp asks for a passkey
	Accepted                  // a phone accepted this device: the service ends the connection next
	Up                        // logged in
	Ended                     // why it ended is known; it is being brought to its very end
	Drained                   // the client can be used again; the lock is asked who holds it
	Over                      // everything that follows its end was decided

	anyConn = NoConn | live | down
	live    = Opening | Dialed | Foreign | Waiting | Offering | Passkey | Accepted | Up
	pairing = Offering | Passkey
	down    = Ended | Drained | Over
	between = NoConn | Over // a new attempt may begin
)

// Device is what is known of the device that this term works with.
type Device uint8

// The phases of the device.
const (
	Unread   Device = 1 << iota // nobody asked the store for it in this term
	Unpaired                    // it is new: a phone must scan a code
	Paired                      // it is linked to the account
	Deleted                     // it was deleted in the store, and nobody has said why yet
	Gone                        // the service ended it: what is in the store must not come back
	Spoilt                      // a pairing failed and left it useless: the store has a new one
	Shut                        // it was ended under a client that does not let go of it; the account is paired

	linked  = Paired | Deleted | Shut // the account has a device
	present = Unpaired | Paired | Deleted
)

// Save is how the state stands to what is written down.
type Save uint8

// The phases of saving.
const (
	Saved   Save = 1 << iota // what is written down is true
	Unsaved                  // it is to be written down
	Saving                   // it is being written down
	Stale                    // it is being written down, and has changed again
)

// Plan is what is known of the next attempt.
type Plan uint8

// The phases of a plan.
const (
	NoPlan   Plan = 1 << iota // none
	Planned                   // at a time that is set
	Unasked                   // the same, by hand: planned because nobody told the host of the end
	Recorded                  // it is due, and in the state that is being written down
)

// Client is how an attachment stands to its client.
type Client uint8

// The phases of an attachment.
const (
	NoClient Client = 1 << iota // nobody has attached one
	Attached                    // it is the one that is used
	Replaced                    // a newer one is taking its place
	Retired                     // it is of no more use
)

// Wish is whether an account that has to pair, or whose attempts have stopped, is
// offered or tried without anybody asking.
type Wish uint8

// The phases of a wish.
const (
	Open   Wish = iota // as the policy says
	Asked              // somebody asked, and no login, no pairing and no end of the offers has come of it yet
	Parked             // nothing is begun until somebody asks
)

// Return is how the client comes back behind the end of a connection that was
// ended for it.
type Return uint8

// The ways to come back. A later one counts more.
const (
	InItsTime Return = iota // as the policy says
	IfAllowed               // at once, unless the end forbids it: nobody has asked
	AtOnce                  // somebody asked
)

// Call is how far the connect function of an attempt has come.
type Call uint8

// The phases of a call.
const (
	NoCall   Call = iota // the Manager did not call: nobody saw the attempt begin
	Running              // it has not returned
	Returned             // it returned without an error, or the host connected by itself
)

var names = struct {
	phase, conn, device, save, plan, client []string
}{
	phase:  []string{"Working", "Breaking", "Broken", "Yielding", "Leaving", "Dropped", "Finished"},
	conn:   []string{"NoConn", "Opening", "Dialed", "Foreign", "Waiting", "Offering", "Passkey", "Accepted", "Up", "Ended", "Drained", "Over"},
	device: []string{"Unread", "Unpaired", "Paired", "Deleted", "Gone", "Spoilt", "Shut"},
	save:   []string{"Saved", "Unsaved", "Saving", "Stale"},
	plan:   []string{"NoPlan", "Planned", "Unasked", "Recorded"},
	client: []string{"NoClient", "Attached", "Replaced", "Retired"},
}

func (p Phase) String() string  { return set(uint16(p), names.phase) }
func (p Conn) String() string   { return set(uint16(p), names.conn) }
func (p Device) String() string { return set(uint16(p), names.device) }
func (p Save) String() string   { return set(uint16(p), names.save) }
func (p Plan) String() string   { return set(uint16(p), names.plan) }
func (p Client) String() string { return set(uint16(p), names.client) }

// set names the bits of v.
func set(v uint16, names []string) string {
	var out []string
	for ; v != 0; v &= v - 1 {
		i := bits.TrailingZeros16(v)
		if i >= len(names) {
			return fmt.Sprintf("unknown(%d)", v)
		}
		out = append(out, names[i])
	}
	return strings.Join(out, "|")
}

// moves are the steps that the smaller phases may take. Those of connections
// are in the table of rules, and the ones of terms too.
var (
	deviceMoves = map[Device]Device{
		Unread:   Unpaired | Paired,
		Unpaired: Paired | Gone | Spoilt | Unread,
		Paired:   Deleted | Gone | Spoilt | Shut | Unread,
		Deleted:  Gone | Spoilt | Shut | Unread,
		Gone:     Unpaired | Paired | Unread,
		Spoilt:   Unpaired | Paired | Gone | Unread,
		Shut:     Unpaired | Paired | Gone | Unread,
	}
	saveMoves = map[Save]Save{
		Saved:   Unsaved | Saving,
		Unsaved: Saving,
		Saving:  Saved | Stale | Unsaved,
		Stale:   Unsaved,
	}
	planMoves = map[Plan]Plan{
		NoPlan:   Planned | Unasked,
		Planned:  NoPlan | Recorded,
		Unasked:  NoPlan | Recorded,
		Recorded: NoPlan,
	}
	clientMoves = map[Client]Client{
		NoClient: Attached,
		Attached: Replaced | Retired,
		Replaced: Retired,
		Retired:  Attached, // the one after it
	}
)
