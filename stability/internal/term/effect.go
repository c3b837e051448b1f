package term

import (
	"log/slog"
	"time"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// Effect is one thing to do. It is a closed set. Effects are carried out in
// their order. None of them is carried out twice.
type Effect interface{ effect() }

// Effects that never block. The bringer of the evidence carries them out.
type (
	// Announce tells the observers of a transition.
	Announce struct {
		What     News
		Reason   reconnect.Reason
		Detail   string
		Decision reconnect.Decision
		Attempt  int
		Offline  time.Duration
	}
	// ShowCode shows a code to scan.
	ShowCode struct {
		Code  string
		Until time.Time
	}
	// Log writes one line.
	Log struct {
		Level slog.Level
		Text  string
		Attrs []any
	}
	// Bind gives the socket that the dialer has just opened to a connection.
	Bind struct{ Conn int }
	// Refuse closes the socket that the dialer has just opened.
	Refuse struct{}
	// UseConnect keeps the connect function that came with Schedule.
	UseConnect struct{}
	// Cut closes the socket of a connection. It may wait for a write: not
	// under a lock, nor by whoever reads the socket.
	Cut struct {
		Conn  int
		Cause error
	}
	// CancelCall ends the context of an attempt's connect function.
	CancelCall struct{ Conn int }
	// CancelSave breaks off a save that is under way.
	CancelSave struct{}
	// ForgetDevice lets the device go: it must not be used again.
	ForgetDevice struct{}
	// RetireClient says that an attachment is of no more use.
	RetireClient struct{ Client int }
	// TermEnds says that this instance must not use the connection any more.
	TermEnds struct{}
	// LoginWithoutTap notes that a login was told of, and what the tap saw of it.
	LoginWithoutTap struct{ Blind bool }
	// TapWorks notes that the tap saw a login.
	TapWorks struct{}
	// TellHealth tells of a health that is another than before.
	TellHealth struct {
		Was keepalive.Health
		Is  keepalive.Verdict
	}
	// Ping sends a ping, beside everything else: Pinged.
	Ping struct{ Conn int }
	// Repair fetches the whole app state again, beside everything else.
	Repair struct{ Conn int }
)

// Effects that may take long. The one loop carries them out, one at a time,
// and gives back what came of them before it ticks again.
type (
	// Connect makes an attempt: CallReturned.
	Connect struct {
		Conn  int
		Until time.Time // bring Overdue if it has come to nothing by then; zero: not
	}
	// CleanUp brings a connection to its very end: CleanedUp.
	CleanUp struct {
		Conn int
		Auto bool // Run can make another client if it takes too long
	}
	// AskLock asks the lock who holds it: LockAsked.
	AskLock struct{ Conn int }
	// SaveState writes the state down: SaveDone.
	SaveState struct{ State reconnect.State }
	// RecordRestart writes the state down as it is behind a restart:
	// RestartRecorded.
	RecordRestart struct {
		State reconnect.State
		At    time.Time
	}
	// TellLoop lets everybody know of a loop, or of why this instance gives up,
	// before the term ends: LoopTold.
	TellLoop struct{}
	// TearDown ends everything that is left of the term: TornDown.
	TearDown struct {
		Why      Why
		Graceful bool
	}
)

// News is what an Announce is about.
type News uint8

// The announcements.
const (
	NewsConnecting News = iota + 1
	NewsConnected
	NewsDisconnected
	NewsReasonKnown
	NewsNeedsPairing
	NewsCode
	NewsPaired
	NewsHealing
)

func (Announce) effect()        {}
func (ShowCode) effect()        {}
func (Log) effect()             {}
func (Bind) effect()            {}
func (Refuse) effect()          {}
func (UseConnect) effect()      {}
func (Cut) effect()             {}
func (CancelCall) effect()      {}
func (CancelSave) effect()      {}
func (ForgetDevice) effect()    {}
func (RetireClient) effect()    {}
func (TermEnds) effect()        {}
func (LoginWithoutTap) effect() {}
func (TapWorks) effect()        {}
func (TellHealth) effect()      {}
func (Ping) effect()            {}
func (Repair) effect()          {}
func (Connect) effect()         {}
func (CleanUp) effect()         {}
func (AskLock) effect()         {}
func (SaveState) effect()       {}
func (RecordRestart) effect()   {}
func (TellLoop) effect()        {}
func (TearDown) effect()        {}

// Long reports whether an effect is the loop's to carry out.
func Long(e Effect) bool {
	switch e.(type) {
	case Connect, CleanUp, AskLock, SaveState, RecordRestart, TellLoop, TearDown:
		return true
	}
	return false
}
