package authstore

import (
	"bytes"
	"maps"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func (m *modelled) upheaval() {
	switch n := rapid.IntRange(0, 10).Draw(m.T, "upheaval"); n {
	case 0:
		m.next()
	case 1: // a crash behind a flush
		m.flush()
		dead := m.c
		m.kv.setEpoch(m.kv.epoch + 1)
		m.c, m.f = m.container(m.kv), newFence(m.kv.epoch)
		m.load()
		_ = dead.Close(bg)
	case 2: // a connection that begins anew
		m.load()
	case 3:
		require.NoError(m, m.c.EndTerm(bg))
		m.kv.setEpoch(m.kv.epoch + 1)
		m.f = newFence(m.kv.epoch)
		m.load()
	case 4:
		m.until(func() error { return m.c.Reseal(bg, m.f, nil) })
	case 5:
		if m.seal == len(modelSeals)-1 {
			return
		}
		if m.seal >= 2 {
			m.until(func() error { return m.c.Reseal(bg, m.f, nil) })
		}
		m.seal++
		m.next()
	case 6: // to another KV
		require.NoError(m, m.c.Close(bg))
		m.kv.setEpoch(m.kv.epoch + 1)
		to := newMapKV()
		to.limits = rapid.SampledFrom(modelLimits).Draw(m.T, "limits")
		m.watch(to)
		src := FromKV("old", m.kv, newFence(m.kv.epoch), modelSeals[m.seal]...)
		m.c, m.f = m.container(to), newFence(1)
		opts := []ImportOption{ReplaceDevice()} // of an attempt whose last answer was lost
		m.until(func() error { _, err := Import(bg, src, m.c, m.f, opts...); return err })
		m.kv = to
		m.load()
		m.audit()
	case 7, 8: // a backup, to another KV or in the same place
		var b bytes.Buffer
		m.until(func() error { b.Reset(); _, err := Export(bg, FromContainer(m.c), &b, archiveKey); return err })
		if n == 7 {
			require.NoError(m, m.c.Close(bg))
			m.kv = newMapKV()
			m.kv.limits = rapid.SampledFrom(modelLimits).Draw(m.T, "limits")
			m.watch(m.kv)
			m.c, m.f = m.container(m.kv), newFence(1)
		}
		m.until(func() error {
			_, err := Restore(bg, bytes.NewReader(b.Bytes()), archiveKey, m.c, m.f, RestoredUnchanged(), ReplaceDevice())
			return err
		})
		m.load()
		if n == 8 { // the old rows go once the device has logged in
			m.login()
			m.audit()
		}
	case 9: // deleted, and brought back
		m.flush()
		require.NoError(m, m.c.DeleteDevice(bg, m.d))
		_, err := m.d.Sessions.GetSession(bg, "1:0")
		require.ErrorIs(m, err, ErrDeviceDeleted)
		m.until(func() error {
			if info, err := m.c.Info(bg); err == nil && info.Exists {
				return nil // its answer was lost
			}
			return m.c.Restore(bg, m.f)
		})
		m.load()
	case 10:
		m.flush()
		m.audit()
	}
	m.all()
}

// login is what follows a login: the service takes a prekey. The model may have
// removed all that it took before.
func (m *modelled) login() {
	list, err := m.d.PreKeys.GetOrGenPreKeys(bg, 1)
	require.NoError(m, err)
	k := list[0]
	m.want.nextPreKey = max(m.want.nextPreKey, k.KeyID+1)
	m.want.preKeys[k.KeyID] = preKeyExpected{public: *k.Pub}
	m.marked(k.KeyID)
}

// marked marks prekeys as uploaded.
func (m *modelled) marked(upTo uint32) {
	require.NoError(m, m.d.PreKeys.MarkPreKeysAsUploaded(bg, upTo))
	for id, k := range m.want.preKeys {
		if k.uploaded = k.uploaded || id <= upTo; k.uploaded {
			m.want.preKeys[id] = k
		}
	}
}

// audit looks for rows that belong to nothing, or say what they should not.
func (m *modelled) audit() {
	time.Sleep(time.Minute) // what is done in the background
	m.c.cfg.background.Wait()
	s := storeOf(m.d)
	s.mu.Lock()
	gen := s.gen
	s.mu.Unlock()
	m.kv.mu.Lock()
	data := maps.Clone(m.kv.data)
	m.kv.mu.Unlock()
	belongs := make(map[Key]bool)
	for k, v := range data {
		if k.Kind == kindPart {
			continue
		}
		rec, err := s.cfg.codec.decode(k, k.ID, []byte(v))
		require.NoError(m, err, "%v", k)
		if rec.split != nil {
			for _, p := range partKeys(k, *rec.split) {
				belongs[p] = true
			}
		}
	}
	for k, v := range data {
		require.True(m, strings.HasPrefix(k.ID, gen+"/") || strings.HasPrefix(k.ID, globalGen+"/"), "of another device: %v", k)
		require.True(m, k.Kind != kindPart || belongs[k], "a part of nothing: %v", k)
		if m.seal >= 3 {
			require.NotContains(m, v, "1555", "%v", k)
		}
	}
	if m.seal >= 2 {
		require.Empty(m, telling(m.kv))
	}
}
