package authstore

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A host may listen for damage beside its Manager.
func TestEveryListenerHearsOfDamage(t *testing.T) {
	var first, second []Incident
	c := New(newMapKV(), WithOnIncident(func(i Incident) { first = append(first, i) }),
		WithOnIncident(nil), WithOnIncident(func(i Incident) { second = append(second, i) }))
	c.cfg.incident(Incident{Kind: IncidentCorrupt, Row: "session"})
	require.Len(t, first, 1)
	require.Equal(t, first, second)
}

// The lock may be lost while rows are written one by one, since the store has
// refused one of them. The others were not refused.
func TestEndOfATermIsNoDamage(t *testing.T) {
	kv := newMapKV()
	var told []Incident
	_, d, f := open(t, kv, WithOnIncident(func(i Incident) { told = append(told, i) }))
	kv.before.set(func(op string, b Batch) error {
		switch {
		case op != "commit":
		case len(b.Put) > 1 && slices.ContainsFunc(b.Put, func(e Entry) bool { return e.Key.Kind == "contact" }):
			return ErrTooLarge
		case len(b.Put) == 1:
			return ErrFenced
		}
		return nil
	})
	_, _, err := d.Contacts.PutPushName(bg, testJID(2), "name")
	require.NoError(t, err)
	require.NoError(t, d.Identities.PutIdentity(bg, "1:0", [32]byte{1}))
	require.ErrorIs(t, storeOf(d).flush("test"), ErrFenced)
	require.EqualValues(t, 1, f.cuts.Load())
	require.Empty(t, told)
}

// The service delivers a message again for two weeks. For as long it is known as
// one that was handled, whatever a host asks for.
func TestFinishedEventIsKnownForAsLongAsItMayComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV(), WithRetention(Retention{FinishedEvents: time.Hour}))
		hash := [32]byte{1}
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("plain"), time.Now()))
		require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
		for _, known := range []bool{true, false} {
			require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
			e, err := d.EventBuffer.GetBufferedEvent(bg, hash)
			require.NoError(t, err)
			require.Equal(t, known, e != nil)
			time.Sleep(eventTTL - time.Minute)
			require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
			e, err = d.EventBuffer.GetBufferedEvent(bg, hash)
			require.NoError(t, err)
			require.Equal(t, known, e != nil)
			time.Sleep(time.Hour)
		}
	})
}
