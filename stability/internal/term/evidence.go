package term

import (
	"time"

	"github.com/wastability/wastability/keepalive"
	"github.com/wastability/wastability/reconnect"
)

// Evidence is one thing that was seen or asked for. It is a closed set. From
// an attachment or a connection that is not the newest it says nothing: those
// that can be late carry a number.
type Evidence interface{ on() kind }

// Evidence about the term.
type (
	// Tick says that time has passed. The loop gives it, and only while it has
	// nothing else to do.
	Tick struct {
		Held bool // the lock is trusted now
		Up   bool // the socket of the newest connection is open
	}
	// Stop ends the term in good order: it is held until everything is written down.
	Stop struct{ Why Why }
	// CutTerm ends the term at once, and the connection with it.
	CutTerm struct {
		Why   Why
		Cause reconnect.Cause
	}
	// TornDown says that nothing of the term is left.
	TornDown struct{}
	// SaveDone says what came of a SaveState.
	SaveDone struct{ Err error }
	// ProveStore asks for a save, which tells whether the backend answers.
	ProveStore struct{}
	// RestartRecorded says what came of a RecordRestart.
	RestartRecorded struct {
		Err error
		At  time.Time // as RecordRestart had it
	}
	// LoopTold says that people were told of the loop, or of what this instance
	// gives up for, as far as they could be.
	LoopTold struct{}
)

// Evidence about the device.
type (
	// DeviceRead says that the store gave the device.
	DeviceRead struct{ Paired bool }
	// DeviceDeleted says that the present device was deleted in the store.
	DeviceDeleted struct{}
	// DeviceRestored says that the store has its last device back.
	DeviceRestored struct{}
	// PhoneAccepted says that a phone accepted the device.
	PhoneAccepted struct{ Client int }
)

// Evidence about the attachment.
type (
	// Attach puts a new client in place of what was there.
	Attach struct {
		Client int
		Auto   bool // Run looks after it; else the host does, by hand
		Tapped bool // its logger shows received stanzas to the Manager
	}
	// Ready says that Run's client was set up. Jitter delays its first attempt
	// after a crash.
	Ready struct {
		Client int
		Jitter time.Duration
	}
	// Schedule asks for an attempt, by hand.
	Schedule struct{ At time.Time }
	// Ask says that somebody wants the account to go on.
	Ask struct{}
	// PhoneCode says that a code to type into the phone was given out.
	PhoneCode struct{ Conn int }
	// Again ends the present connection for a reason of our own, to come back
	// at once. It is the wish of a person, or the program's, unless Unasked says
	// that this package has a reason by itself.
	Again struct {
		Reason  reconnect.Reason
		Detail  string
		Unasked bool
	}
	// Replace says that a newer client is taking this one's place.
	Replace struct {
		Client int
		Cause  reconnect.Cause
	}
	// StepDown ends the connection because the term ends.
	StepDown struct {
		Why   Why
		Cause reconnect.Cause
	}
	// Retire says that a client is of no more use, and that its connection was
	// brought to its very end, as far as it could be.
	Retire struct{ Client int }
	// GivenUp says that something of a client goes on running. Shut: the device
	// that it stood on was ended under it.
	GivenUp struct {
		Client int
		Shut   bool
	}
)

// Evidence about a connection.
type (
	// Socket says that the dialer has opened a socket for the client.
	Socket struct{ Client int }
	// CallReturned says what the connect function of an attempt returned.
	CallReturned struct {
		Conn   int
		Failed bool // with an error
		Ends   bool // that is one about the connection
		Cause  reconnect.Cause
		Up     bool
	}
	// SawLogin says that the tap saw the service accept the login.
	SawLogin struct{ Client int }
	// SawService says that the tap saw what only clients get that are logged in.
	SawService struct {
		Client int
		Up     bool
	}
	// SawEnd says that the tap saw a stanza that ends the connection. Behind: it
	// was read when the client was being brought to the end of a connection
	// already, so it can tell more of that one and ends none that lives.
	SawEnd struct {
		Client int
		Cause  reconnect.Cause
		Behind bool
	}
	// ToldEnd says that an event of whatsmeow's tells why a connection ended.
	ToldEnd struct {
		Client     int
		Cause      reconnect.Cause
		FromStanza bool // it comes from a stanza
		TapSees    bool // and the tap has seen stanzas before
	}
	// ToldLogin says that whatsmeow told of a login.
	ToldLogin struct {
		Client  int
		Up      bool
		TapSees bool
	}
	// SocketGone says that the socket of a connection is closed.
	SocketGone struct {
		Conn  int
		By    Closer
		Cause reconnect.Cause
	}
	// Seen is what is seen of how alive the account's connection is. The core knows
	// by itself whether there is one, and which pings were answered. The loop gives
	// it before a Tick.
	Seen struct {
		Up bool // the socket of the newest connection is open
		Of keepalive.Observation
	}
	// Pinged says what came of a Ping.
	Pinged struct {
		Conn     int
		Answered bool
		Failed   bool // there was no answer; neither: nobody knows
	}
	// PingsFailed says what whatsmeow tells of its own pings.
	PingsFailed struct {
		Client   int
		InARow   int       // 0: the newest was answered
		Answered time.Time // the last one that was
	}
	// Overdue says that an attempt has taken until Connect.Until.
	Overdue struct{ Conn int }
	// HostEnd says why the host believes that a connection or an attempt ended.
	HostEnd struct{ Cause reconnect.Cause }
	// LoggedOut says that the service removed the device because we asked for it.
	LoggedOut struct{ Conn int }
	// Codes are a set of codes to scan.
	Codes struct {
		Client int
		Codes  []string
		Up     bool
	}
	// PasskeyAsked says that the pairing goes on with a passkey.
	PasskeyAsked struct {
		Client int
		Up     bool
	}
	// PasskeyFailed says that the step with the passkey failed.
	PasskeyFailed struct {
		Client int
		Up     bool
	}
	// Late says that bringing a connection to its very end takes long.
	Late struct{ Conn int }
	// CleanedUp says that a connection was brought to its very end, or that
	// this was given up.
	CleanedUp struct{ Conn int }
	// LockAsked says that the lock was asked who holds it.
	LockAsked struct{ Conn int }
)

// Closer says who closed a socket.
type Closer uint8

// The parties that close a socket.
const (
	ByOther  Closer = iota // the service, the network, or whoever Cause names
	ByPause                // we, since the lock was not trusted after a pause of the process
	ByReset                // this program, to get a new connection
	ByClient               // this program or whatsmeow itself, in good order
)

// Why says why a term ends.
type Why struct {
	Healing bool  // to break a reconnect loop
	Unfit   bool  // because this instance cannot connect, and another one may
	Yielded bool  // because this instance is asked to: Close, the end of Run, a heal
	Err     error // as it is shown
}

type kind uint8

const (
	onTick kind = iota
	onStop
	onCutTerm
	onTornDown
	onSaveDone
	onProveStore
	onRestartRecorded
	onLoopTold
	onDeviceRead
	onDeviceDeleted
	onDeviceRestored
	onPhoneAccepted
	onAttach
	onReady
	onSchedule
	onAsk
	onPhoneCode
	onAgain
	onReplace
	onStepDown
	onRetire
	onGivenUp
	onSocket
	onCallReturned
	onSawLogin
	onSawService
	onSawEnd
	onToldEnd
	onToldLogin
	onSocketGone
	onSeen
	onPinged
	onPingsFailed
	onOverdue
	onHostEnd
	onLoggedOut
	onCodes
	onPasskeyAsked
	onPasskeyFailed
	onLate
	onCleanedUp
	onLockAsked
	kinds
)

func (Tick) on() kind            { return onTick }
func (Stop) on() kind            { return onStop }
func (CutTerm) on() kind         { return onCutTerm }
func (TornDown) on() kind        { return onTornDown }
func (SaveDone) on() kind        { return onSaveDone }
func (ProveStore) on() kind      { return onProveStore }
func (RestartRecorded) on() kind { return onRestartRecorded }
func (LoopTold) on() kind        { return onLoopTold }
func (DeviceRead) on() kind      { return onDeviceRead }
func (DeviceDeleted) on() kind   { return onDeviceDeleted }
func (DeviceRestored) on() kind  { return onDeviceRestored }
func (PhoneAccepted) on() kind   { return onPhoneAccepted }
func (Attach) on() kind          { return onAttach }
func (Ready) on() kind           { return onReady }
func (Schedule) on() kind        { return onSchedule }
func (Ask) on() kind             { return onAsk }
func (PhoneCode) on() kind       { return onPhoneCode }
func (Again) on() kind           { return onAgain }
func (Replace) on() kind         { return onReplace }
func (StepDown) on() kind        { return onStepDown }
func (Retire) on() kind          { return onRetire }
func (GivenUp) on() kind         { return onGivenUp }
func (Socket) on() kind          { return onSocket }
func (CallReturned) on() kind    { return onCallReturned }
func (SawLogin) on() kind        { return onSawLogin }
func (SawService) on() kind      { return onSawService }
func (SawEnd) on() kind          { return onSawEnd }
func (ToldEnd) on() kind         { return onToldEnd }
func (ToldLogin) on() kind       { return onToldLogin }
func (SocketGone) on() kind      { return onSocketGone }
func (Seen) on() kind            { return onSeen }
func (Pinged) on() kind          { return onPinged }
func (PingsFailed) on() kind     { return onPingsFailed }
func (Overdue) on() kind         { return onOverdue }
func (HostEnd) on() kind         { return onHostEnd }
func (LoggedOut) on() kind       { return onLoggedOut }
func (Codes) on() kind           { return onCodes }
func (PasskeyAsked) on() kind    { return onPasskeyAsked }
func (PasskeyFailed) on() kind   { return onPasskeyFailed }
func (Late) on() kind            { return onLate }
func (CleanedUp) on() kind       { return onCleanedUp }
func (LockAsked) on() kind       { return onLockAsked }

// from returns the attachment and the connection that evidence is about; zero
// where it is about the newest, or about neither.
func from(e Evidence) (client, conn int) {
	switch e := e.(type) {
	case PhoneAccepted:
		return e.Client, 0
	case Ready:
		return e.Client, 0
	case Replace:
		return e.Client, 0
	case Retire:
		return e.Client, 0
	case GivenUp:
		return e.Client, 0
	case Socket:
		return e.Client, 0
	case SawLogin:
		return e.Client, 0
	case SawService:
		return e.Client, 0
	case SawEnd:
		return e.Client, 0
	case ToldEnd:
		return e.Client, 0
	case ToldLogin:
		return e.Client, 0
	case PingsFailed:
		return e.Client, 0
	case Codes:
		return e.Client, 0
	case PasskeyAsked:
		return e.Client, 0
	case PasskeyFailed:
		return e.Client, 0
	case CallReturned:
		return 0, e.Conn
	case SocketGone:
		return 0, e.Conn
	case Pinged:
		return 0, e.Conn
	case Overdue:
		return 0, e.Conn
	case LoggedOut:
		return 0, e.Conn
	case Late:
		return 0, e.Conn
	case CleanedUp:
		return 0, e.Conn
	case LockAsked:
		return 0, e.Conn
	}
	return 0, 0
}
