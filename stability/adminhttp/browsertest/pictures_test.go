package browsertest

import (
	"bytes"
	"cmp"
	"flag"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
)

var update = flag.Bool("update", false, "draw the pictures of the README anew")

// images is where the README has its pictures.
const images = "../../../docs/images"

// The pictures of the README are what the browser shows: a phone's window in
// three states. They are drawn anew on request only, since they name times.
func TestReadmePicturesCanBeDrawn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file, scheme, state string
		reach               func() *place
	}{
		{"page-connected.png", "light", "connected", func() *place {
			p := newPlace(t)
			p.run().pair().hear()
			require.NoError(t, p.say(0))
			return p
		}},
		{"page-code.png", "light", "code", func() *place {
			p := newPlace(t).run()
			p.await(func(st stability.Status) bool { return st.QRAvailable })
			return p
		}},
		{"page-outage.png", "dark", "retrying", func() *place { return down(t) }},
	} {
		chromium(t)
		p, b := c.reach(), newTab(t)
		call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 390, Height: 844, DeviceScaleFactor: 1.5, Mobile: true})
		b.scheme(c.scheme)
		p.enter(b)
		b.awaitState(c.state)
		small := shrunk(t, b.picture())
		require.Less(t, len(small), 100_000, c.file)
		file := filepath.Join(images, c.file)
		if *update {
			require.NoError(t, os.MkdirAll(images, 0o755))
			require.NoError(t, os.WriteFile(file, small, 0o644))
		}
		kept, err := os.ReadFile(file)
		require.NoError(t, err, "run go test -run Readme -update")
		require.Equal(t, size(t, small), size(t, kept), "run go test -run Readme -update")
	}
}

func size(t *testing.T, data []byte) image.Point {
	c, err := png.DecodeConfig(bytes.NewReader(data))
	require.NoError(t, err)
	return image.Pt(c.Width, c.Height)
}

// shrunk is the picture with the 256 colours that it uses most.
func shrunk(t *testing.T, data []byte) []byte {
	img, err := png.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	uses := map[color.RGBA]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			uses[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(uses), func(a, b color.RGBA) int {
		return cmp.Or(uses[b]-uses[a], cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range most[:min(len(most), 256)] {
		palette = append(palette, c)
	}
	few := image.NewPaletted(img.Bounds(), palette)
	draw.Draw(few, few.Bounds(), img, image.Point{}, draw.Src)
	var out bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few))
	return out.Bytes()
}
