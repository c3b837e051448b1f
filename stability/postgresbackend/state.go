package postgresbackend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/wastability/wastability/reconnect"
)

// stateStore implements reconnect.StateStore.
type stateStore struct{ a *account }

var _ reconnect.StateStore = stateStore{}

// Load implements reconnect.StateStore.
func (s stateStore) Load(ctx context.Context) (reconnect.State, error) {
	const op = "load the state"
	var (
		version int
		text    string
	)
	err := s.a.do(ctx, op, func(ctx context.Context) error {
		err := s.a.db.pool.QueryRow(ctx, s.a.db.q.loadState, s.a.id).Scan(&version, &text)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return reconnect.State{}, err
	}
	if version > reconnect.StateVersion {
		return reconnect.State{}, fmt.Errorf("postgresbackend: %s of format %d: %w", op, version, reconnect.ErrNewerFormat)
	}
	state, err := reconnect.DecodeState([]byte(text))
	if err != nil {
		return reconnect.State{}, fmt.Errorf("postgresbackend: %s: %w", op, err)
	}
	return state, nil
}

// Save is one statement. A state of a newer format stays.
func (s stateStore) Save(ctx context.Context, epoch int64, st reconnect.State) error {
	const op = "save the state"
	text, err := reconnect.EncodeState(st)
	if err != nil {
		return fmt.Errorf("postgresbackend: %s: %w", op, err)
	}
	var newer bool
	err = s.a.underFence(ctx, op, epoch, func(ctx context.Context, t term) (bool, error) {
		var passed, saved int
		err := s.a.db.pool.QueryRow(ctx, s.a.db.q.save, s.a.id, t.epoch, t.nonce, t.token, reconnect.StateVersion, string(text),
			plain(st.InstanceID), plain(string(st.Status)), instant(st.ConnectedAt), instant(st.LastDisconnectAt),
			plain(string(st.LastDisconnectReason)), st.RetryCount, instant(st.NextRetryAt)).Scan(&passed, &saved)
		newer = err == nil && passed == 1 && saved == 0
		return passed == 1, err
	})
	if err == nil && newer {
		return fmt.Errorf("postgresbackend: %s: write over the old state: %w", op, reconnect.ErrNewerFormat)
	}
	return err
}

// plain is a text that Postgres takes; the rest is for people only, or stands
// in JSON as well.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// instant is t as a column; no time is NULL.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Microsecond)
	return &t
}

func fromInstant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
