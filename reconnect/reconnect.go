package reconnect

import (
	"context"
	"encoding/json"
	"time"

	"github.com/wastability/wastability/lock"
)

// ErrFenced is what StateStore.Save returns for an epoch that is over.
var ErrFenced = lock.ErrFenced

// Status is the state of the connection as an operator sees it.
type Status string

// The three states. The zero value is treated as StatusDisconnected.
const (
	StatusConnected    Status = "CONNECTED"
	StatusDisconnected Status = "DISCONNECTED"
	StatusNeedsPairing Status = "NEEDS_PAIRING"
)

// Stanza is the text of one received top-level stanza, as whatsmeow's receive
// logger prints it. Classify understands <stream:error>, <failure> and
// <xmlstreamend>.
type Stanza string

// Decision is what to do after a connection ended. Decisions are comparable:
// two that are equal ask for the same thing.
type Decision struct {
	Status          Status
	Reason          Reason
	ShouldReconnect bool
	Delay           time.Duration // jittered; counted from the instant given to the Machine
	RetryCount      int
	NextRetryAt     time.Time // zero when ShouldReconnect is false

	Action Action // what kind of step this is
	Code   int    // the code on the wire (503, 402, …), 0 when there was none
	Detail string // plain text for operators, without phone numbers
	// Counted is true when the end is a failure in the eyes of auto-heal.
	Counted bool
	// Repair asks for a repair of the local session (drop broken rows, full
	// app-state sync) before the next attempt. Credentials are never deleted
	// for it.
	Repair bool
}

// StateVersion is the newest format of State that this library reads.
const StateVersion = 1

// State is what survives the process: the clocks that a restart must not
// reset. The zero value is a connection that has never been.
type State struct {
	Version              int       `json:"version"` // StateVersion; 0 means empty
	InstanceID           string    `json:"instanceId,omitempty"`
	Status               Status    `json:"waStatus,omitempty"`
	ConnectedAt          time.Time `json:"connectedAt,omitzero"`
	LastDisconnectAt     time.Time `json:"lastDisconnectAt,omitzero"`
	LastDisconnectReason Reason    `json:"lastDisconnectReason,omitempty"`
	// DisconnectedSince is the start of the present outage: it stays while
	// attempts fail one after the other.
	DisconnectedSince time.Time `json:"disconnectedSince,omitzero"`
	RetryCount        int       `json:"retryCount,omitempty"`
	NextRetryAt       time.Time `json:"nextRetryAt,omitzero"`
	// NotBefore forbids attempts until then: a temporary ban.
	NotBefore time.Time `json:"notBefore,omitzero"`
	// Attempts are the instants of counted attempts inside the loop window.
	Attempts []time.Time `json:"attempts,omitempty"`
	// Restarts are the instants of restarts by auto-heal inside its budget.
	Restarts  []time.Time `json:"restarts,omitempty"`
	UpdatedAt time.Time   `json:"updatedAt,omitzero"`

	// LastDisconnectCode and LastDisconnectDetail belong to
	// LastDisconnectReason: the code on the wire and a plain sentence.
	LastDisconnectCode   int    `json:"lastDisconnectCode,omitempty"`
	LastDisconnectDetail string `json:"lastDisconnectDetail,omitempty"`
	// FirstDisconnectAt, -Reason, -Code and -Detail say how the present trouble
	// began; LastDisconnectReason says why it goes on. They are of the first end
	// since the last stable connection that the host did not wish for. Empty once
	// a connection is stable again, or a device was paired.
	FirstDisconnectAt     time.Time `json:"firstDisconnectAt,omitzero"`
	FirstDisconnectReason Reason    `json:"firstDisconnectReason,omitempty"`
	FirstDisconnectCode   int       `json:"firstDisconnectCode,omitempty"`
	FirstDisconnectDetail string    `json:"firstDisconnectDetail,omitempty"`
	// Failures are counted ends in a row, without a stable connection between.
	Failures int `json:"failures,omitempty"`
	// Replacements are the instants of connection_replaced inside their window.
	Replacements []time.Time `json:"replacements,omitempty"`
	// RestartStreak, RejectStreak and BadSessionStreak count ends of one kind
	// in a row.
	RestartStreak    int `json:"restartStreak,omitempty"`
	RejectStreak     int `json:"rejectStreak,omitempty"`
	BadSessionStreak int `json:"badSessionStreak,omitempty"`
	// Yields says which holders gave the lock up in the present trouble because
	// they could not connect, each with its last time, the newest last. They stay
	// until the next trouble begins.
	Yields []Yield `json:"yields,omitempty"`

	// Unknown holds fields of the same format version that a newer library
	// added. DecodeState fills it and EncodeState writes it back, so that old
	// and new may run side by side during a rolling deploy.
	Unknown map[string]json.RawMessage `json:"-"`
}

// StateStore keeps the one State of an account. Safe for concurrent use.
type StateStore interface {
	// Load returns the zero State when none was saved. A format newer than
	// StateVersion is an error that matches ErrNewerFormat.
	Load(ctx context.Context) (State, error)
	// Save replaces the state, only while epoch is the newest lock epoch;
	// else ErrFenced, and nothing is written.
	Save(ctx context.Context, epoch int64, s State) error
}
