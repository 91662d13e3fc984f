import jax
import jax.numpy as jnp

from recjax.serving.program_text import arguments, products, products_asked_for


def compiled_text(batch_size: int) -> str:
    def answer(weights: jax.Array, narrow: jax.Array, x: jax.Array) -> jax.Array:
        low = jax.lax.dot(x.astype(jnp.int8), narrow, preferred_element_type=jnp.int32)
        return low.astype(jnp.float32) @ weights

    shapes = [((32, 3), jnp.float32), ((64, 32), jnp.int8), ((batch_size, 64), jnp.float32)]
    text = jax.jit(answer).lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile().as_text()
    assert text is not None
    return text


def test_products_of_a_compiled_program_by_type():
    assert products(compiled_text(16)) == {"f32 x f32 -> f32": 1, "s8 x s8 -> s32": 1}


def test_at_batch_1_xla_widens_integer_products_on_a_cpu():
    assert products(compiled_text(1)) == {"f32 x f32 -> f32": 1, "s32 x s32 -> s32": 1}


def test_products_of_a_lowered_program_by_type():
    text = """
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<9x8xi8>, tensor<8x3xi8>) -> tensor<9x3xi32>
  %1 = stablehlo.dot_general %c, %d, contracting_dims = [0] x [0] : (tensor<2xf8E4M3FN>, tensor<2xbf16>) -> tensor<f32>
    """
    assert products_asked_for(text) == {"f8e4m3fn x bf16 -> f32": 1, "s8 x s8 -> s32": 1}


def test_arguments_of_a_compiled_program():
    assert arguments(compiled_text(16)) == {"f32[32,3]": 1, "s8[64,32]": 1, "f32[16,64]": 1}


def test_types_stand_in_the_operands_of_some_programs_and_before_them_in_others():
    text = """
HloModule example

%inner (a: bf16[4,8], b: bf16[8,2]) -> f32[4,2] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,2]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: s8[4,8], y: s8[8,2]) -> s32[4,2] {
  %a = s8[4,8]{1,0} parameter(0)
  %b = s8[8,2]{1,0} parameter(1)
  ROOT %dot.2 = s32[4,2]{1,0} dot(s8[4,8]{1,0} %a, s8[8,2]{1,0} %b), lhs_contracting_dims={1}
}
"""
    assert products(text) == {"bf16 x bf16 -> f32": 1, "s8 x s8 -> s32": 1}
    assert arguments(text) == {"s8[4,8]": 1, "s8[8,2]": 1}


def test_library_calls_hide_their_types():
    text = 'ENTRY %main {\n  %c = f32[2,2]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm"\n}'
    assert products(text) is None
    assert products(None) is None
    assert arguments(None) is None
