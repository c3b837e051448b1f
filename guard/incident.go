package guard

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNoID reports an incident without an id. Nothing was stored.
	ErrNoID = errors.New("guard: an incident needs an id, for example its Type.ActiveID()")

	// ErrNewerFormat reports an incident that a newer library wrote. It is
	// never overwritten: update this instance.
	ErrNewerFormat = errors.New("guard: the incident has a newer format than this library knows: update this instance")
)

// Type says what kind of trouble an incident is about.
type Type string

// The incident types that the library raises.
const (
	TypeDisconnectStuck     Type = "wa_disconnect_stuck"
	TypeReconnectLoop       Type = "wa_reconnect_loop"
	TypeRestartLoop         Type = "wa_restart_loop"
	TypeRestartBudget       Type = "wa_restart_budget_exhausted"
	TypeLoggedOut           Type = "wa_logged_out_requires_pairing"
	TypeAccountBanned       Type = "wa_account_banned"
	TypeTemporaryBan        Type = "wa_temporary_ban"
	TypeHolderUnfit         Type = "wa_holder_unfit"
	TypeClientOutdated      Type = "wa_client_outdated"
	TypeConnectionConflict  Type = "wa_connection_conflict"
	TypeInstanceIDNotUnique Type = "wa_instance_id_not_unique"
	TypeDegraded            Type = "wa_degraded"
	TypeSendsRefused        Type = "wa_sends_refused"
	TypeStoreUnavailable    Type = "wa_store_unavailable"
	TypeLockFlapping        Type = "wa_lock_flapping"
	TypeDataDamaged         Type = "wa_stored_data_damaged"
	TypeMessagesWaiting     Type = "wa_messages_waiting"
	TypeMessagesSetAside    Type = "wa_messages_set_aside"
)

// ActiveID is the id under which the one incident of this type is kept, so
// that the same trouble is one document however often it is seen.
func (t Type) ActiveID() string { return string(t) + "_active" }

// Incident is one trouble: raised once, refreshed while it lasts, resolved.
type Incident struct {
	ID              string            `json:"id"` // see Type.ActiveID
	Type            Type              `json:"type"`
	Active          bool              `json:"active"`                   // false once resolved
	InstanceID      string            `json:"instanceId,omitempty"`     // who saw it last
	DetectedAt      time.Time         `json:"detectedAt,omitzero"`      // start of this occurrence
	FirstDetectedAt time.Time         `json:"firstDetectedAt,omitzero"` // start of the first occurrence ever
	LastCheckedAt   time.Time         `json:"lastCheckedAt,omitzero"`   // when it was last seen to be true
	ResolvedAt      time.Time         `json:"resolvedAt,omitzero"`      // zero while active
	Evidence        map[string]string `json:"evidence,omitempty"`       // what was seen: reason, attempts, since when
	Instructions    string            `json:"instructions,omitempty"`   // one sentence: what to do now
	Runbook         string            `json:"runbook,omitempty"`        // the longer text
}

// IncidentStore keeps incidents by id. It is not fenced: incidents are
// idempotent by id, and who has just lost the lock may have something to say.
// All methods are safe for concurrent use.
type IncidentStore interface {
	// Raise creates, refreshes or re-opens the incident inc.ID and returns it
	// as stored. opened is true when it was not active before: that is the
	// moment to notify somebody. On a refresh DetectedAt and FirstDetectedAt
	// stay as stored; on a re-opening FirstDetectedAt stays and ResolvedAt is
	// cleared. LastCheckedAt never goes backwards. Raised says it in code. An
	// incident without an id is ErrNoID.
	Raise(ctx context.Context, inc Incident) (stored Incident, opened bool, err error)

	// Resolve closes the incident. closed is true when it was active. An
	// unknown or already resolved id is no error.
	Resolve(ctx context.Context, id string, at time.Time) (closed bool, err error)

	// List returns all incidents, active ones first, newest first (see Sort). If
	// some cannot be read, it returns the others beside the error.
	List(ctx context.Context) ([]Incident, error)
}
