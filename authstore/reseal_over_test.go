package authstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// After a logout the device that is over is still the Container's last one.
func TestResealWorksBesideADeviceThatIsOver(t *testing.T) {
	for name, opts := range map[string][]Option{"plain": nil, "sealed": {nameSeal}} {
		t.Run(name, func(t *testing.T) {
			c, d, f := open(t, newMapKV(), opts...)
			require.NoError(t, d.Delete(bg))
			for range 20 {
				require.NoError(t, c.Reseal(bg, f, nil))
			}
		})
	}
}
